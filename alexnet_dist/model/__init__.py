"""The network: a table of layers, the memory of its parameters, and the layers in execution. Knows no MPI and no files."""
