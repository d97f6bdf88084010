"""Synthetic scenes with ground truth: shapes, sprites, Spriteworld."""
