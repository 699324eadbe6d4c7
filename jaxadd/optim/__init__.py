"""What training minimises and how: losses, scores, optimisers, gradient filters."""
