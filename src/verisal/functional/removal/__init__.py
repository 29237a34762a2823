"""Scores from removing or keeping pixels."""
