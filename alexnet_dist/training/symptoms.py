"""What can be measured of a network that trains badly: units that are always 0, updates against weights, outputs that are
not finite. Used in few steps, between one step's end and the next one's beginning, when the latest outputs of all blocks
are still there.

Layers have the names of the summary in the log, for example Conv2d-1. Legend: N images, K units of a layer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.model.architecture import PlacedLayer, ReLU, layer_table
from alexnet_dist.model.layers.conv import ConvBlock
from alexnet_dist.model.layers.linear import LinearBlock
from alexnet_dist.model.network import AlexNet

SAMPLED = 1024  # weights of each layer, evenly spaced, that stand for all when updates are measured


@dataclass(frozen=True)
class Reading:
    """Of each layer with a ReLU, the share of units that were 0 for every image since the last `forget`, at all positions;
    of each layer with weights, the norm of the latest step's update over that of the weights before it."""

    dead: dict[str, float]
    updates: dict[str, float]


class Probe:
    """Measures the layers of a network over all ranks. `values` are its parameters, flat.

    Layers whose parameters begin before `trained_from` are frozen, and left out.
    """

    def __init__(self, net: AlexNet, values: np.ndarray, world: Ranks, trained_from: int = 0) -> None:
        self._net, self._values, self._world = net, values, world
        layers, ranges = layer_table(net.network).layers, net.parameters.ranges
        self._weighted = [
            layer for layer in layers if layer.parameters and ranges[layer.parameters[0].name][0] >= trained_from
        ]
        weights = [ranges[layer.parameters[0].name] for layer in self._weighted]
        self._ends = np.array([ranges[layer.parameters[1].name][1] for layer in self._weighted])  # of the biases
        samples = [np.linspace(lo, hi - 1, min(SAMPLED, hi - lo)).astype(np.int64) for lo, hi in weights]
        starts = {layer: (block.parameters.w_start, block.parameters.w.size) for block, layer in self._blocks()}
        for index, layer in enumerate(self._weighted):  # a node may have a part of a layer only, or nothing of it
            start, size = starts.get(layer, (0, 0))
            samples[index] = samples[index][(samples[index] >= start) & (samples[index] < start + size)]
        self._sample, self._layers = np.concatenate(samples), np.repeat(range(len(samples)), list(map(len, samples)))
        self._before = np.zeros(0, np.float32)
        self._units: dict[str, slice] = {}  # of each layer with a ReLU, in the arrays of units
        count = 0
        for layer, following in pairwise(layers):
            if layer in self._weighted and isinstance(following.layer, ReLU):
                units = layer.parameters[1].size
                self._units[layer.name] = slice(count, count + units)
                count += units
        self._alive = np.zeros(count, np.bool_)

    def before_step(self) -> None:
        """To be called before a step whose update is to be measured."""
        self._before = self._values[self._sample]

    def after_step(self) -> Reading:
        """Collective: what the step that has just ended shows."""
        before, now = (array.astype(np.float64) for array in (self._before, self._values[self._sample]))
        count = len(self._weighted)
        squares = [np.bincount(self._layers, array * array, count) for array in (now - before, before)]
        totals = np.array(self._world.sum([*np.concatenate(squares), *self._alive_here()]))
        changes, weights, alive = np.split(totals, [count, 2 * count])
        self._alive |= alive > 0
        dead = {name: 1 - float(self._alive[units].mean()) for name, units in self._units.items()}
        ratios = np.sqrt(changes / np.maximum(weights, np.finfo(np.float64).tiny))
        return Reading(dead, {layer.name: float(ratio) for layer, ratio in zip(self._weighted, ratios, strict=True)})

    def forget(self) -> None:
        """Which units have been above 0 counts from now on."""
        self._alive[:] = False

    def first_not_finite(self) -> str:
        """Collective: the first layer with a NaN or an infinity in its latest output on any rank; "" if there is none."""
        flags = dict.fromkeys((layer.name for layer in self._weighted), 0.0)
        for block, layer in self._blocks():
            y = block.y[: block.images]
            finite = math.isfinite(y.min(initial=0.0)) and math.isfinite(y.max(initial=0.0))
            flags[layer.name] += not finite
        totals = self._world.sum(list(flags.values()))
        return next((name for name, total in zip(flags, totals, strict=True) if total), "")

    def _alive_here(self) -> np.ndarray:
        """1 for each unit that is above 0 somewhere in this rank's latest outputs, else 0."""
        alive = np.zeros(len(self._alive))
        for block, layer in self._blocks():
            if block.relu and layer.name in self._units:
                y = block.y[: block.images].reshape(-1, block.y.shape[-1])
                # A layer may be divided among nodes: the bias tells which of its units this block computes.
                first = block.parameters.b_start - self._ends[self._weighted.index(layer)]
                start = self._units[layer.name].stop + int(first)
                alive[start : start + y.shape[1]] = ~(np.maximum.reduce(y, axis=0, initial=0.0) <= 0)
        return alive

    def _blocks(self) -> Iterator[tuple[ConvBlock | LinearBlock, PlacedLayer]]:
        """The blocks that compute layers with weights, with these; but for those of which nothing is computed here."""
        for block in (*self._net.features.blocks, *self._net.classifier.blocks):
            if isinstance(block, ConvBlock | LinearBlock) and len(block.parameters.b):
                index = int(np.searchsorted(self._ends, block.parameters.b_start, side="right"))
                yield block, self._weighted[index]
