"""The run that the tests of resuming compare with: two ranks that nobody disturbs."""

import signal

from launcher import epoch_results, open_mpi, steps, validations

# 46 images in batches of 4, the last of 2: 12 steps an epoch. The one validation image is of a class that isn't trained,
# so the validation error never improves, and without patience the learning rate falls after each epoch but the first.
IMAGES, EPOCH, EPOCHS = 46, 12, 4
PLATEAU = ("--lr-patience", "0", "--lr-gamma", "0.5", "--lr-reductions", "20", "--lr", "0.001")
RANDOM = ("--dropout", "0.5", "--color-noise")
# Open MPI ends its ranks a quarter of a second after SIGTERM; what launches them sends SIGUSR1 instead.
STOP_SIGNALS = (signal.SIGUSR1,) if open_mpi() else (signal.SIGUSR1, signal.SIGTERM)


def flags(output, *more, epochs=EPOCHS):
    """Of the run that all tests here compare with."""
    lists = ["--data", "train.list", "--val", "val.list", "--num-classes", 4, "--epochs", epochs, "--global-batch", 4]
    return [*lists, "--save-every", 5, "--output-dir", output, *PLATEAU, *RANDOM, *more]


def assert_same_run(folder, whole, first):
    """From step `first` on, the log is to the bit that of the run which nobody disturbed."""
    for column in ("loss", "top1", "lr"):
        assert steps(folder, column, first) == steps(whole, column, first), column
    assert max(steps(folder)) == EPOCHS * EPOCH
    assert validations(folder) == validations(whole)
    assert epoch_results(folder)[-1] == epoch_results(whole)[-1]
