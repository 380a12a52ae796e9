"""The optimizers in float64, from their papers' and PyTorch's formulas: parameter by parameter, all at once."""

import numpy as np


class SGD64:
    def __init__(self, momentum=0.9, weight_decay=5e-4):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.v = {}

    def step(self, name, p, g, lr):
        v = self.momentum * self.v.get(name, 0.0) + g + self.weight_decay * p
        self.v[name] = v
        return p - lr * v


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
    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=5e-4):
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.t, self.m, self.v = {}, {}, {}

    def step(self, name, p, g, lr):
        t = self.t[name] = self.t.get(name, 0) + 1
        p = p * (1 - lr * self.weight_decay)
        m = self.m[name] = self.beta1 * self.m.get(name, 0.0) + (1 - self.beta1) * g
        v = self.v[name] = self.beta2 * self.v.get(name, 0.0) + (1 - self.beta2) * g**2
        root = np.sqrt(v) / np.sqrt(1 - self.beta2**t) + self.eps
        return p - lr / (1 - self.beta1**t) * m / root


REFERENCES = {"sgd": SGD64, "lars": LARS64, "adamw": AdamW64}
