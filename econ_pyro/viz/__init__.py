"""Figures, animations and training curves."""
