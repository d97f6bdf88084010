"""Datasets and pictures of others, read as sources."""
