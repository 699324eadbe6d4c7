"""Training: one compiled step for S lanes, the loop on the host, slots for lanes, and costs."""
