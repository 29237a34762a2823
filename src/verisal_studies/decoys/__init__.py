"""Claims of the decoy paper."""
