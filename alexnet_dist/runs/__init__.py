"""What a run leaves on disk: checkpoints, the run's folder, log and metrics, the timeline."""
