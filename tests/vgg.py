"""Networks that are not AlexNet, for tests of what follows from the table of layers alone."""

from dataclasses import dataclass

from alexnet_dist.model.architecture import AdaptiveAvgPool2d, Conv2d, Dropout, Linear, MaxPool2d, Network, ReLU


@dataclass(frozen=True)
class VggLike(Network):
    """3 x 3 convolutions with and without pooling, one without ReLU; pooling 2 x 2; `hidden` fully connected layers
    before the last."""

    num_classes: int = 5
    image_size: int = 20
    hidden: int = 1
    classifier_pool: bool = False  # a layer in the classifier that ranks can't share the work of

    def layers(self):
        features = [
            Conv2d(6, kernel=3, padding=1),
            ReLU(),
            Conv2d(8, kernel=3, padding=1),
            ReLU(),
            MaxPool2d(kernel=2, stride=2),
            Conv2d(10, kernel=3, padding=1),
            MaxPool2d(kernel=2, stride=2),
            Conv2d(7, kernel=3, padding=1),
        ]
        classifier = [AdaptiveAvgPool2d(3)] if self.classifier_pool else []
        for _ in range(self.hidden):
            classifier += [Linear(24), ReLU(), Dropout(self.dropout)]
        return features, [*classifier, Linear(self.num_classes)]
