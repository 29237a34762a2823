"""Stateless functions on tensors, and the context managers that own side effects; import the module."""
