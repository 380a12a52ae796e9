"""A whole network in float64, layer by layer as its table says, and one step of ours to compare with it."""

import numpy as np
import reference
from small import KeepGradients

from alexnet_dist.kernels.loss import cross_entropy
from alexnet_dist.model.architecture import AdaptiveAvgPool2d, Conv2d, Dropout, Linear, MaxPool2d, ReLU, layer_table
from alexnet_dist.model.layers.linear import LinearBlock


def forward64(net, flat, x, masks=()):
    """Logits of x; `masks` are those of the dropout layers in order, 1 where there are none."""
    parameters = net.parameters
    views = {spec.name: flat[slice(*parameters.ranges[spec.name])].reshape(spec.shape) for spec in parameters.specs}
    masks = iter(masks)
    for placed in layer_table(net.network).layers:
        layer, weights = placed.layer, [views[spec.name] for spec in placed.parameters]
        if isinstance(layer, Conv2d):
            x = reference.conv_forward(x, *weights, layer.stride, layer.padding)
        elif isinstance(layer, ReLU):
            x = np.maximum(x, 0)
        elif isinstance(layer, MaxPool2d):
            x, _ = reference.maxpool_forward(x, layer.kernel, layer.stride)
        elif isinstance(layer, AdaptiveAvgPool2d):
            x = reference.adaptive_avgpool_forward(x, layer.size)
        elif isinstance(layer, Dropout):
            x = x.reshape(len(x), -1) * next(masks, 1.0)
        elif isinstance(layer, Linear):
            x = x.reshape(len(x), -1) @ weights[0].reshape(len(weights[1]), -1).T + weights[1]
        else:
            raise TypeError(f"no reference for {layer}")
    return x


def masks_of(net, n):
    """The dropout masks of the latest forward pass, of n images."""
    linear = [block for block in net.blocks if isinstance(block, LinearBlock)]
    return [block.mask[:n].astype(np.float64) for block in linear if block.mask.size]


def step(net, x, labels, key=None, pieces=()):
    """Logits, loss and gradients."""
    logits = net.forward(x, key, pieces)
    dlogits = np.empty_like(logits)
    loss = cross_entropy(logits, labels, dlogits, total=max(len(x), 1))
    sink = KeepGradients(net.parameters.size)
    net.backward(dlogits, sink)
    assert (sink.seen == 1).all()
    return logits.copy(), loss, sink.flat


def assert_equals_reference(net, flat, x, labels, key=None):
    """Logits within 1e-5 of the largest, gradients within 1e-3 by random projection."""
    logits, _, gradient = step(net, x, labels, key)
    masks = masks_of(net, len(x)) if key else []
    assert reference.error(logits, forward64(net, flat.astype(np.float64), x, masks)) < 1e-5

    def loss(parameters):
        return float(reference.cross_entropy(forward64(net, parameters, x, masks), labels).mean())

    # ReLU and max-pooling have corners, so the step must be small enough to meet few of them.
    assert reference.gradient_error(loss, flat, gradient, directions=2) < 1e-3
    return masks
