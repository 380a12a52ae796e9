"""What a report says of a run in words and figures: the summary, the configuration, and in what several runs differ."""

from collections.abc import Mapping
from typing import Any

from alexnet_dist.reporting.series import best_epoch, images_per_second, step_seconds
from alexnet_dist.runs.metrics import RunRecord
from alexnet_dist.support.duration import duration

STARTS = "starts"


def facts(run: RunRecord) -> dict[str, str]:
    """The summary: words -> value, both for people."""
    found: dict[str, str] = {}
    best, speed = best_epoch(run), images_per_second(run)
    if best:
        found["Best epoch"] = f"{best['epoch']} of {_planned(run)}"
        found["Its top-1 accuracy"] = f"{best['val_top1']:.2%}"
        if best.get("val_top5") is not None:
            found["Its top-5 accuracy"] = f"{best['val_top5']:.2%}"
        loss = best["val_loss"]
        found["Its validation loss"] = "not finite" if loss is None else f"{loss:.4f}"
    else:
        found["Epochs"] = f"{len(run.epochs)} of {_planned(run)}"
    if len(run.steps):
        found["Steps"] = f"{run.steps[-1]['step']:,}"
        # A row of an epoch counts one start of the run alone.
        validation = sum(row.get("val_seconds") or 0 for row in run.epochs)
        found["Time in steps and validation"] = duration(step_seconds(run) + validation)
    if speed:
        found["Images a second"] = f"{speed:,.1f}"
    found["State"] = state(run)
    return found


def state(run: RunRecord) -> str:
    """How far the run has come, in words."""
    if any(row.get("event") == "complete" for row in run.events[-1:]):
        return "finished"
    steps = int(run.steps[-1]["step"]) if len(run.steps) else 0
    return f"not finished, {steps:,} {'step' if steps == 1 else 'steps'} made" if steps else "no step made"


def configuration(run: RunRecord) -> dict[str, dict[str, str]]:
    """All that run.json holds, by headings: the run, its flags, versions, and each start."""
    tables: dict[str, dict[str, str]] = {"The run": {}}
    for name, value in run.info.items():
        if name == STARTS:
            for number, start in enumerate(value, 1):
                tables[f"Start {number}"] = {_words(key): _value(one) for key, one in start.items()}
        elif isinstance(value, dict):
            flag = "--{}" if name == "flags" else "{}"
            tables[_words(name).capitalize()] = {
                flag.format(key.replace("_", "-") if name == "flags" else _words(key)): _value(one)
                for key, one in value.items()
            }
        else:
            tables["The run"][_words(name)] = _value(value)
    return {name: table for name, table in tables.items() if table}


def differences(runs: Mapping[str, RunRecord]) -> list[dict[str, str]]:
    """The flags in which several runs differ: a row each, with the value of each run."""
    flags = {name: run.info.get("flags", {}) for name, run in runs.items()}
    every = dict.fromkeys(flag for one in flags.values() for flag in one)
    rows = [{name: _value(one.get(flag)) for name, one in flags.items()} for flag in every]
    return [
        {"flag": f"--{flag.replace('_', '-')}", **row}
        for flag, row in zip(every, rows, strict=True)
        if len(set(row.values())) > 1
    ]


def _planned(run: RunRecord) -> str:
    return str(run.info.get("flags", {}).get("epochs", len(run.epochs)))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_value(one)}" for name, one in value.items())
    return ", ".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)
