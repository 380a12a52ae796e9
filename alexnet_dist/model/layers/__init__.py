"""The layers in execution, a file each: blocks that bind shapes, parameters and memory to kernels."""
