"""What a run writes of its network: states to resume from, the best weights, the final ones."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from alexnet_dist.runs import checkpoint
from alexnet_dist.support.files import write_text
from alexnet_dist.training.optim_wrappers import AVERAGE
from alexnet_dist.training.origin import without_state
from alexnet_dist.training.progress import Progress
from alexnet_dist.training.setup import Run


class Saver:
    """Writes the files of a run. Its methods are collective, and raise SharedError where rank 0 can't write."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.saved_step = run.progress.step if run.resumed else -1
        self.saved = False  # whether latest.safetensors is of this run

    def save(self, progress: Progress, best: bool = False) -> bool:
        """Rank 0 writes a training state, and the weights alone (those that are validated) if they are the best so far.

        Nothing is written, and False returned, if a weight isn't finite.
        """
        run = self._run
        values, state = run.engine.whole()
        if run.world.sum([values is not None and not np.isfinite(values).all()])[0]:
            return False
        with run.world.shared_errors():
            if values is not None:
                # The best weights first: a run that is killed in between repeats the end of this epoch.
                if best:
                    self._save_weights(run.folder.best, self._validated(values, state))
                self._save_training(run.folder.state(progress.step), progress, values, state)
        self.saved_step, self.saved = progress.step, True
        return True

    def finish(self, progress: Progress) -> None:
        """Rank 0 writes the weights for --save, and says that the run is complete."""
        run = self._run
        values, state = run.engine.whole() if run.config.save else (None, {})
        with run.world.shared_errors():
            if run.world.rank == 0:
                if run.config.save and values is not None:
                    self._save_weights(Path(run.config.save), self._validated(values, state))
                write_text(run.folder.complete, f"step {progress.step}\n")

    def _validated(self, values: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The weights that are validated: their average where one is kept, which it isn't of frozen layers."""
        if AVERAGE not in state:
            return values
        start = self._run.engine.trained_from
        state[AVERAGE][:start] = values[:start]
        return state[AVERAGE]

    def _save_training(self, path: Path, progress: Progress, values: np.ndarray, state: dict[str, np.ndarray]) -> None:
        run, engine = self._run, self._run.engine
        training = {
            "progress": asdict(progress),
            "seed": run.config.seed,
            "global-batch": run.global_batch,
            "opt": run.config.opt,
            "train list": run.train_list,
            "val list": run.val_list,
            "sync": engine.strategy_name,
            "ranks": run.world.size,
            "nodes": run.nodes,
            "config": asdict(run.config),
        }
        header = checkpoint.Header(run.network, run.sources.class_names, training)
        skip = without_state(run.network, run.config, state)
        checkpoint.save(path, engine.parameters, values, state, header, skip=skip)
        run.folder.point_latest(path)

    def _save_weights(self, path: Path, values: np.ndarray) -> None:
        header = checkpoint.Header(self._run.network, self._run.sources.class_names)
        checkpoint.save(path, self._run.engine.parameters, values, {}, header)
