"""A training run: configuration, setup, the loop over epochs, the parallel step, optimizers, learning rates, validation."""
