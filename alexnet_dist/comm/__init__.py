"""MPI: the world of ranks, and the strategies that exchange gradients. Knows flat arrays, not images or layers."""
