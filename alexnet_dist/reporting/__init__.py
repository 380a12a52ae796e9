"""What `alexnet-report` shows of runs: their figures, their predictions, and the page that has all of it."""
