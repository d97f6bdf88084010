"""Training data: image sources, splits, ground truth."""
