"""Weights, experts, scenes and layers as files."""
