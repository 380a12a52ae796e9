"""The blocks that run the layers, a file for each kind: they bind shapes, parameters and memory to kernels."""
