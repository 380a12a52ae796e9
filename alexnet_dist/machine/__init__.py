"""What this machine offers a run: cores, memory, libraries, MPI, and the layouts of ranks and threads."""
