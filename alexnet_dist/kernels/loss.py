"""Softmax cross-entropy, and whether the right class is among the first k.

Legend: logits [N, K] float32, labels [N] int64; a label of -1 marks a row without an image (it could not be read): no
loss, no gradient, never counted.
"""

import numpy as np

from alexnet_dist.support.labels import NO_LABEL, Mixed

STEP = 2.0**-28  # losses are multiples of this, so that sums of them below 2^25 are exact, whatever their order


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [N, K] float32, with the largest logit subtracted first so that nothing overflows."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    dlogits: np.ndarray,
    *,
    total: int,
    smoothing: float = 0.0,
    mixed: Mixed | None = None,
) -> float:
    """The sum of the losses of these rows, each rounded to STEP, in float64; writes dlogits = d(that sum / total) / d logits.

    `total` is the size of the global batch, so that gradients summed over all ranks are those of its mean loss. With
    smoothing s the target is 1 - s on the label plus s / K on every class (Szegedy et al., arXiv 1512.00567).
    Where images are `mixed`, the label's 1 - s is divided between both labels (Zhang et al., arXiv 1710.09412).
    """
    k = logits.shape[1]
    rows = np.flatnonzero(labels != NO_LABEL)
    right = labels[rows]
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(shifted, out=dlogits)
    norm = dlogits.sum(axis=1, keepdims=True, dtype=np.float64)
    log_norm = np.log(norm[rows, 0])
    on_labels = shifted[rows, right].astype(np.float64)
    if mixed is not None:
        other, shares = mixed.labels[rows], mixed.shares[rows].astype(np.float64)
        on_labels = shares * on_labels + (1 - shares) * shifted[rows, other]
    losses = log_norm - (1 - smoothing) * on_labels
    if smoothing:
        losses -= smoothing * shifted[rows].mean(axis=1, dtype=np.float64)
    dlogits /= norm.astype(np.float32)
    dlogits -= smoothing / k
    if mixed is None:
        dlogits[rows, right] -= 1 - smoothing
    else:
        dlogits[rows, right] -= (1 - smoothing) * shares
        dlogits[rows, other] -= (1 - smoothing) * (1 - shares)
    dlogits[labels == NO_LABEL] = 0
    dlogits /= total
    return float(np.rint(losses / STEP).sum()) * STEP


def count_correct(logits: np.ndarray, labels: np.ndarray, ks: tuple[int, ...] = (1, 5)) -> list[int]:
    """For each k, how many rows have the right class among their k largest logits.

    Of equal logits the lower class ranks first, and NaN ranks before everything, so that a dead or diverged network
    doesn't count as right.
    """
    rows = np.flatnonzero(labels != NO_LABEL)
    logits, right = logits[rows], labels[rows]
    target = logits[np.arange(len(rows)), right][:, None]
    ahead = ~(logits <= target)
    ahead |= (logits == target) & (np.arange(logits.shape[1]) < right[:, None])
    place = ahead.sum(axis=1)
    return [int((place < k).sum()) for k in ks]
