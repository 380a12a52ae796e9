"""What a run writes to disk: checkpoints, the run's folder, log and metrics, the timeline."""
