"""p: decoders and the layered generative programs."""
