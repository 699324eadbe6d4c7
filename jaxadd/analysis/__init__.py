"""Analysis: what a network has learned, and what there is to know."""
