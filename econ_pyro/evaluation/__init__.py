"""Evaluation of decompositions and samples."""
