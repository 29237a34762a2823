"""What the callbacks that explain have in common: hooks, one epoch, its images, its cost, its names."""
