"""Readers that open images, videos and datasets as sources."""
