"""The network: a table of layers, the memory of its parameters, and blocks that run the layers. No MPI and no files."""
