"""Decoy-enhanced saliency (Lu et al., 2021)."""
