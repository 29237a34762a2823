"""Boxes, components, and how well maps find objects."""
