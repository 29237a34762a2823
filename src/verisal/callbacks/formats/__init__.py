"""Formats in which loaders give images and what is known of them."""
