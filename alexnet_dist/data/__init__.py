"""images.list to normalised batches, decoded ahead of the computation; rank and size arrive as integers."""
