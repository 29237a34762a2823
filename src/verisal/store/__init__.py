"""Tensors computed once per item and kept on disk or behind a URL."""

from verisal.store.store import FeatureStore

__all__ = ["FeatureStore"]
