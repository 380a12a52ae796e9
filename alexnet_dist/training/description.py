"""What run.json says of a run, for programs: by what it was started, on what, with what."""

import json
import os
import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

from alexnet_dist import __version__
from alexnet_dist.support.processor import processor
from alexnet_dist.training.setup import Run

PACKAGES = ("numpy", "pillow", "mpi4py", "safetensors")


def describe(run: Run) -> dict[str, Any]:
    """Collective: flags, versions, machines, data and network of a run, which JSON can represent."""
    ranks = run.world.all_texts([json.dumps([os.uname().nodename, processor(), run.team.size])])
    hosts, processors, threads = zip(*map(json.loads, ranks), strict=True)
    sources = run.sources
    return {
        "flags": asdict(run.config),
        "started_in": os.getcwd(),
        "versions": {
            "alexnet_dist": __version__,
            "python": platform.python_version(),
            "mpi": run.world.mpi_library(),
            **{package: metadata.version(package) for package in PACKAGES},
        },
        "ranks": run.world.size,
        "threads": threads[0],
        "threads_of_ranks": threads,
        "hosts": hosts,
        "processor": processors[0],
        "processors": processors,
        "strategy": run.engine.strategy_name,
        "why_strategy": run.why_strategy,
        "global_batch": run.global_batch,
        "class_names": sources.class_names,
        "images": {
            "training": {"count": len(sources.train), "source": str(sources.train.source)},
            "validation": {"count": len(sources.val), "source": str(sources.val.source)},
        },
        "network": {**asdict(run.network), "parameters": run.engine.parameters.size},
    }
