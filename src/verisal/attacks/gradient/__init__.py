"""Attacks of a given size along the gradient."""
