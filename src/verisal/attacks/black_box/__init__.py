"""Attacks that ask for outputs only."""
