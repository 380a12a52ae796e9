"""Stochastic gradient descent with momentum and weight decay, in place on a range of the flat buffers."""

from dataclasses import dataclass

import numpy as np

from alexnet_dist.support.workspace import Workspace

BLOCK = 1 << 18  # floats: parameters, momentum and gradient of a block stay in the cache between the operations


@dataclass(frozen=True)
class SGD:
    """v = momentum * v + (g + weight_decay * p); p = p - lr * v. As in PyTorch, lr is outside of v."""

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def update_(self, p: np.ndarray, g: np.ndarray, v: np.ndarray, lr: float, workspace: Workspace) -> None:
        """One step on the parameters p, with gradient g and momentum v: flat float32 of one length. g is only read."""
        with workspace.frame():
            scratch = workspace.take((min(BLOCK, p.size),))
            for lo in range(0, p.size, BLOCK):
                part = slice(lo, lo + BLOCK)
                pp, gg, vv = p[part], g[part], v[part]
                step = scratch[: pp.size]
                np.multiply(vv, self.momentum, out=vv)
                np.multiply(pp, self.weight_decay, out=step)
                np.add(step, gg, out=step)
                np.add(vv, step, out=vv)
                np.multiply(vv, lr, out=step)
                np.subtract(pp, step, out=pp)
