"""Losses, scores, optimisers, gradient filters."""
