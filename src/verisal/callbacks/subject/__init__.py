"""What is explained: the part of somebody's module, and the normalisation of its images."""
