"""The table of layers: the shapes and counts that the C program's page and torchvision have."""

import pytest

from alexnet_dist.model.architecture import Network, layer_table, parameter_map, summary

TABLE = [
    ("Conv2d-1", "[N, 64, 55, 55]", "23,296"),
    ("ReLU-2", "[N, 64, 55, 55]", "0"),
    ("MaxPool2d-3", "[N, 64, 27, 27]", "0"),
    ("Conv2d-4", "[N, 192, 27, 27]", "307,392"),
    ("ReLU-5", "[N, 192, 27, 27]", "0"),
    ("MaxPool2d-6", "[N, 192, 13, 13]", "0"),
    ("Conv2d-7", "[N, 384, 13, 13]", "663,936"),
    ("ReLU-8", "[N, 384, 13, 13]", "0"),
    ("Conv2d-9", "[N, 256, 13, 13]", "884,992"),
    ("ReLU-10", "[N, 256, 13, 13]", "0"),
    ("Conv2d-11", "[N, 256, 13, 13]", "590,080"),
    ("ReLU-12", "[N, 256, 13, 13]", "0"),
    ("MaxPool2d-13", "[N, 256, 6, 6]", "0"),
    ("Dropout-14", "[N, 9216]", "0"),
    ("Linear-15", "[N, 4096]", "37,752,832"),
    ("ReLU-16", "[N, 4096]", "0"),
    ("Dropout-17", "[N, 4096]", "0"),
    ("Linear-18", "[N, 4096]", "16,781,312"),
    ("ReLU-19", "[N, 4096]", "0"),
    ("Linear-20", "[N, 1000]", "4,097,000"),
]
KEYS = [
    f"{key}.{kind}"
    for key in [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))]
    for kind in ("weight", "bias")
]


def test_summary_is_the_table():
    lines = summary(Network()).splitlines()
    found = [(line[:22].strip(), line[22:44].strip(), line[44:].strip()) for line in lines[2:22]]
    assert found == TABLE
    assert "Total parameters: 61,100,840" in lines[-1]


def test_parameters_are_torchvisions():
    parameters = parameter_map(Network())
    assert parameters.size == 61_100_840
    assert [spec.name for spec in parameters.specs] == KEYS
    assert parameters.specs[0].file_shape == (64, 3, 11, 11)
    assert parameters.specs[10].file_shape == (4096, 9216)
    assert parameters.specs[-1].file_shape == (1000,)


def test_other_sizes_are_averaged_to_six():
    features, _ = layer_table(Network(image_size=256))
    assert features[-1].name == "AdaptiveAvgPool2d-14"
    assert features[-1].input == (7, 7, 256)
    assert parameter_map(Network(image_size=256)).size == 61_100_840


def test_arguments_reach_the_table():
    parameters = parameter_map(Network(num_classes=10, width=0.25))
    shapes = {spec.name: spec.file_shape for spec in parameters.specs}
    assert shapes["features.3.weight"] == (48, 16, 5, 5)
    assert shapes["classifier.6.weight"] == (10, 1024)


def test_too_small_images():
    with pytest.raises(ValueError, match="too small"):
        layer_table(Network(image_size=40))
