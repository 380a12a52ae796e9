"""torchvision's AlexNet in PyTorch, to compare with. Built from our own table of layers: torchvision isn't needed."""

import torch

from alexnet_dist.model import architecture
from alexnet_dist.model.architecture import Network


def alexnet(network: Network | None = None) -> torch.nn.Module:
    """A module with torchvision's keys: features, avgpool, classifier."""
    network = network or Network()
    features, classifier = network.layers()
    channels = 3

    def build(layer: architecture.Layer) -> torch.nn.Module:
        nonlocal channels
        match layer:
            case architecture.Conv2d(filters, kernel, stride, padding):
                before, channels = channels, filters
                return torch.nn.Conv2d(before, filters, kernel, stride, padding)
            case architecture.ReLU():
                return torch.nn.ReLU(inplace=True)
            case architecture.MaxPool2d(kernel, stride):
                return torch.nn.MaxPool2d(kernel, stride)
            case architecture.AdaptiveAvgPool2d(size):
                return torch.nn.AdaptiveAvgPool2d(size)
            case architecture.Dropout(probability):
                return torch.nn.Dropout(probability)
            case architecture.Linear(outputs):
                before, channels = channels, outputs
                return torch.nn.Linear(before, outputs)
        raise ValueError(f"no PyTorch layer for {layer}")

    class AlexNet(torch.nn.Module):
        def __init__(self) -> None:
            nonlocal channels
            super().__init__()
            *convolutions, average = features
            self.features = torch.nn.Sequential(*map(build, convolutions))
            self.avgpool = build(average)
            channels *= self.avgpool.output_size**2
            self.classifier = torch.nn.Sequential(*map(build, classifier))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
            return logits

    return AlexNet()
