"""Atomic writing of files, and validated reading of untrusted files."""
