"""From images.list to normalised batches, decoded ahead of the computation. No MPI: rank and size are integers."""
