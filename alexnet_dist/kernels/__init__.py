"""Pure functions on arrays: no state, no files, no threads, no MPI. Scratch memory is passed in as a Workspace."""
