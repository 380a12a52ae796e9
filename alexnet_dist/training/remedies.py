"""What to do about a run that doesn't learn: sentences that fit its configuration and what has been measured of it."""

from collections.abc import Sequence

from alexnet_dist.training.config import TrainingConfig

TINY_UPDATE, LARGE_UPDATE = 1e-5, 0.05  # of the weights' norm; what is between them is usual


def _lower(config: TrainingConfig) -> str:
    warmup = "" if config.lr_warmup_epochs else " or warm up (--lr-warmup-epochs)"
    return f"lower --lr (now {config.lr:g}){warmup}"


def _other_weights(config: TrainingConfig) -> list[str]:
    """What to change about the weights that the run began with."""
    if config.load_pretrained:
        return [f"begin without --load-pretrained ({config.load_pretrained}) to see whether its weights are the cause"]
    return [f"begin with --init he (now {config.init})"] if config.init != "he" else []


def for_large_update(config: TrainingConfig) -> str:
    """An update is large against the weights."""
    return f"If the loss doesn't fall, {_lower(config)}"


def for_dead_layers(config: TrainingConfig, updated: bool) -> str:
    """Layers have died; `updated`: after updates, not with the weights that the run began with."""
    if updated:
        return f"They rarely come back: begin again, and {_lower(config)}"
    return "No step has been made yet: " + (*_other_weights(config), "look at the images: are they all alike?")[0]


def for_divergence(config: TrainingConfig, updated: bool) -> str:
    """Something isn't finite; `updated`: after updates."""
    if not updated:
        return f"No step has been made yet, so it isn't for the learning rate: {_culprit(config)}"
    also = "; --on-nan restore would go back and halve it" if config.on_nan == "stop" else ""
    return f"{_sentence([_lower(config)])}{also}. The checkpoints there are from before that"


def _culprit(config: TrainingConfig) -> str:
    if config.load_pretrained:
        return f"look at the weights in {config.load_pretrained}"
    return f"look at the images of {config.data}"


def for_guessing(config: TrainingConfig, update: float, dead: Sequence[str]) -> str:
    """The loss is that of guessing; `update`: the largest of a layer, against its weights; `dead`: layers that died."""
    ways = []
    if dead:
        ways.append(f"begin again, and {_lower(config)}: {', '.join(dead)} died")
    elif update > LARGE_UPDATE:
        ways.append(f"{_lower(config)}: a step changes a layer's weights by {update:.1%}")
    elif update < TINY_UPDATE:
        ways.append(
            f"raise --lr (now {config.lr:g}): a step changes no layer's weights by more than {update:.1e} of them"
        )
    ways += _other_weights(config)
    if config.dropout and config.width <= 0.25:
        ways.append(
            f"try a lower --dropout (now {config.dropout:g}), which is much for a network of --width {config.width:g}"
        )
    if not dead:
        ways.append("check that the labels in the list are those of the images")
    if not dead and TINY_UPDATE <= update <= LARGE_UPDATE:
        ways.append(f"try other learning rates (--lr, now {config.lr:g})")
    return _sentence(ways)


def _sentence(ways: list[str]) -> str:
    text = "; ".join(ways)
    return text[0].upper() + text[1:]
