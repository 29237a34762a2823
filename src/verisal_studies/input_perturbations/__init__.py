"""Claims of the input perturbation paper."""
