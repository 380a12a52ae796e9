"""The optimizers in float64, from their papers' and PyTorch's formulas: parameter by parameter, all at once."""

import numpy as np


def decay_of(name, weight_decay, bias_weight_decay):
    return weight_decay if bias_weight_decay is None or not name.endswith("bias") else bias_weight_decay


class SGD64:
    def __init__(self, momentum=0.9, weight_decay=5e-4, bias_weight_decay=None, nesterov=False):
        self.momentum, self.decays, self.nesterov = momentum, (weight_decay, bias_weight_decay), nesterov
        self.v = {}

    def step(self, name, p, g, lr):
        g = g + decay_of(name, *self.decays) * p
        v = self.momentum * self.v.get(name, 0.0) + g
        self.v[name] = v
        return p - lr * (g + self.momentum * v if self.nesterov else v)


class LARS64:
    def __init__(self, momentum=0.9, weight_decay=5e-4, trust_coefficient=0.001):
        self.momentum, self.weight_decay, self.trust = momentum, weight_decay, trust_coefficient
        self.v = {}

    def step(self, name, p, g, lr):
        decay, rate = self.weight_decay, 1.0
        if name.endswith(".bias"):
            decay = 0.0
        elif np.linalg.norm(p) and np.linalg.norm(g):
            rate = self.trust * np.linalg.norm(p) / (np.linalg.norm(g) + decay * np.linalg.norm(p))
        self.v[name] = self.momentum * self.v.get(name, 0.0) + lr * rate * (g + decay * p)
        return p - self.v[name]


class AdamW64:
    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=5e-4, bias_weight_decay=None):
        self.beta1, self.beta2, self.eps, self.decays = beta1, beta2, eps, (weight_decay, bias_weight_decay)
        self.t, self.m, self.v = {}, {}, {}

    def step(self, name, p, g, lr):
        t = self.t[name] = self.t.get(name, 0) + 1
        p = p * (1 - lr * decay_of(name, *self.decays))
        m = self.m[name] = self.beta1 * self.m.get(name, 0.0) + (1 - self.beta1) * g
        v = self.v[name] = self.beta2 * self.v.get(name, 0.0) + (1 - self.beta2) * g**2
        root = np.sqrt(v) / np.sqrt(1 - self.beta2**t) + self.eps
        return p - lr / (1 - self.beta1**t) * m / root


class Whole64:
    """All parameters of a map: the gradient is clipped to `max_norm`, and the values are averaged with `decay`."""

    def __init__(self, reference, parameters, max_norm=np.inf, decay=0.0):
        self.reference, self.ranges, self.max_norm, self.decay = reference, parameters.ranges, max_norm, decay
        self.average, self.clipped = None, []

    def step(self, values, gradient, lr):
        """Changes values; `average` is that of the values after each step, from the first on."""
        factor = self.max_norm / (np.linalg.norm(gradient) + 1e-6)
        self.clipped.append(factor < 1)
        for name, (lo, hi) in self.ranges.items():
            part = gradient[lo:hi] * min(1.0, factor)
            values[lo:hi] = self.reference.step(name, values[lo:hi], part, lr)
        before = values if self.average is None else self.average
        self.average = self.decay * before + (1 - self.decay) * values


REFERENCES = {"sgd": SGD64, "lars": LARS64, "adamw": AdamW64}
