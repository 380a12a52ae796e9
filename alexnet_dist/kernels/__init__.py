"""Pure functions on arrays: no state, no files, no threads, no MPI. Scratch memory arrives as a Workspace."""
