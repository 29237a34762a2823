"""Methods that hide or keep parts of the image."""
