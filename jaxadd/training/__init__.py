"""Training: one compiled step for S lanes, the loop on the host, where lanes are placed, and what it costs."""
