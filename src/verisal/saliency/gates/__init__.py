"""Learned hierarchical masks (Wang et al., 2020)."""
