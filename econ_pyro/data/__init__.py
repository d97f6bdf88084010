"""Scenes to learn from: sources, splits, ground truth, images."""
