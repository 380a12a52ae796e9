"""What all other folders use: threads and their scratch memory, keyed random numbers, files, signals."""
