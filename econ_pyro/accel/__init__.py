"""Speed: compiling, CUDA graphs, precision, cores and memory; no algebra."""
