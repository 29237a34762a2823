"""Intervals over images, rates, detection scores and rankings."""
