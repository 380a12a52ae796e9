"""What everything else stands on: threads and their scratch memory, keyed random numbers, files, signals."""
