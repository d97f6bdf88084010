"""Inference and learning: objective, competition (section 5.2), refinement, the step."""
