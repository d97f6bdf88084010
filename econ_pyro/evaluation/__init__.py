"""How good decompositions and samples are."""
