"""Attacks on saliency maps that leave the prediction as it was."""
