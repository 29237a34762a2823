"""Similarity of maps, and how maps change with image, noise and weights."""
