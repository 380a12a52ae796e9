"""python docs/scripts/draw.py: draws the pictures of the pages anew, from the package's own figures, into docs/pictures.

A test compares them with those that are there.
"""

import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from svg import Picture

from alexnet_dist.model.architecture import Conv2d, Network, PlacedLayer, layer_table
from alexnet_dist.model.convolutions import ALGORITHMS, WinogradConv, choose_convolution
from alexnet_dist.support.division import divide
from alexnet_dist.training.optim import SGD
from alexnet_dist.training.strategies import STRATEGIES, Demand

DOCS = Path(__file__).parents[1]
LEFT, BAR = 156, 16  # where bars begin, and their height


def names(layers: list[PlacedLayer]) -> list[str]:
    """conv1, conv2, ..., fc6, ...: as the papers call the layers with parameters."""
    return [f"{'conv' if isinstance(layer.layer, Conv2d) else 'fc'}{index + 1}" for index, layer in enumerate(layers)]


def with_parameters() -> list[PlacedLayer]:
    """The layers of the full network that have parameters."""
    return [layer for layer in layer_table(Network()).layers if layer.parameters]


def multiplications(layer: PlacedLayer) -> int:
    """Of one image, forward, straight from the definition."""
    return math.prod(layer.parameters[0].shape) * math.prod(layer.output[:-1])


def multiplications_here(layer: PlacedLayer) -> tuple[int, str]:
    """Those of a convolution as it is computed here, in its products of matrices, and the algorithm's name."""
    conv = layer.layer
    assert isinstance(conv, Conv2d)
    w = np.empty(layer.parameters[0].shape, np.float32)
    pixels = layer.input[-1] == 3
    chosen = choose_convolution("auto", w, layer.output, conv.stride, conv.padding, pixels=pixels)
    if isinstance(chosen, WinogradConv):
        return chosen.tiles[0] * chosen.tiles[1] * chosen.f.t**2 * math.prod(chosen.w.shape[2:]), chosen.name
    return multiplications(layer), chosen.name


def network() -> Picture:
    """Where the work is, and where the parameters are."""
    layers = with_parameters()
    work, sizes = (
        [multiplications(layer) for layer in layers],
        [sum(p.size for p in layer.parameters) for layer in layers],
    )
    described = "Convolutions do most of the work; fully connected layers hold most of the parameters"
    picture = Picture(720, 90 + 30 * len(layers), described)
    picture.text(24, 32, "AlexNet's layers, for one image", "ink bold")
    columns = [(LEFT, "a", work, "multiplications, forward", 1e6), (450, "b", sizes, "parameters", 1e6)]
    for x, kind, values, title, unit in columns:
        picture.text(x, 60, f"{title}: {sum(values) / unit:.1f} million", "soft small")
        for row, value in enumerate(values):
            width = 190 * value / max(values)
            picture.rect(x, 74 + 30 * row, max(width, 1), BAR, kind)
            picture.text(x + width + 8, 87 + 30 * row, f"{value / unit:.1f}", "soft small")
    for row, (layer, name) in enumerate(zip(layers, names(layers), strict=True)):
        picture.text(24, 87 + 30 * row, name)
        picture.text(74, 87 + 30 * row, "x".join(map(str, layer.output)), "soft small")
    return picture


def winograd_work() -> Picture:
    """How many multiplications Winograd's algorithm saves."""
    layers = [layer for layer in with_parameters() if isinstance(layer.layer, Conv2d)]
    direct, here = [multiplications(layer) for layer in layers], [multiplications_here(layer) for layer in layers]
    picture = Picture(720, 80 + 58 * len(layers), "Winograd's algorithm needs a fraction of the multiplications")
    picture.text(24, 32, "Million multiplications of an image, forward: from the definition, and here", "ink bold")
    for row, (layer, name) in enumerate(zip(layers, names(layers), strict=True)):
        y = 60 + 58 * row
        kernel = layer.parameters[0].shape[0]
        picture.text(24, y + 13, f"{name}, {kernel} x {kernel}")
        count, algorithm = here[row]
        for at, value, kind, text in ((y, direct[row], "pale", "definition"), (y + 20, count, "a", algorithm)):
            width = 330 * value / max(direct)
            picture.rect(LEFT, at, width, BAR, kind)
            picture.text(LEFT + width + 8, at + 13, f"{value / 1e6:.1f}  {text}", "soft small")
        picture.text(24, y + 32, f"1 / {direct[row] / count:.1f}", "soft small")
    return picture


def winograd_tiles() -> Picture:
    """One tile's way."""
    f = ALGORITHMS[3]
    picture = Picture(
        720, 264, f"Tiles of {f.t} x {f.t} inputs, {f.r - 1} of which overlap, give {f.m} x {f.m} outputs"
    )
    picture.text(24, 32, f"F({f.m}, {f.r}): from a tile of {f.t} x {f.t} inputs to {f.m} x {f.m} outputs", "ink bold")
    cell, top = 16, 70
    steps = [
        (24, f.t, "pale", f"{f.t} x {f.t} inputs"),
        (210, f.t, "c", f"at {f.t} x {f.t} points"),
        (396, f.t, "c", "times the filter's points"),
        (582, f.m, "a", f"{f.m} x {f.m} outputs"),
    ]
    for x, count, kind, text in steps:
        for i in range(count):
            for j in range(count):
                picture.rect(x + cell * j, top + cell * i, cell - 2, cell - 2, kind)
        picture.text(x, top + f.t * cell + 20, text, "soft small")
    for x, text in ((143, "Bᵀ d B"), (329, "· U"), (515, "Aᵀ m A")):
        picture.text(x + 30, top + 40, text, "ink small middle")
        picture.path([(x + 2, top + 54), (x + 58, top + 54)], arrow=True)
    for y, text in (
        (226, f"{f.t**2} multiplications for a channel and a filter, where the definition takes {f.m**2 * f.r**2}."),
        (244, f"The next tile begins {f.m} further, and shares {f.r - 1} rows or columns of inputs with this one."),
    ):
        picture.text(24, y, text, "soft small")
    return picture


def demand(ranks_of_nodes: tuple[int, ...], images: int) -> Demand:
    """Of the full network and SGD, for a global batch."""
    return Demand(Network(), SGD(), -(-images // sum(ranks_of_nodes)), ranks_of_nodes, 0)


def memory() -> Picture:
    """What each strategy keeps in the memory of a node."""
    picture = Picture(720, 330, "Memory of a node by strategy and number of ranks")
    picture.text(24, 32, "Parameters, gradients and momentum on one host, in MB (batch of 128)", "ink bold")
    kinds = {"allreduce": "b", "sharded": "c", "hybrid": "a"}
    values = {}
    for ranks in (2, 4, 8):
        asked = demand((ranks,), 128)
        for name in kinds:
            entry = STRATEGIES[name]
            values[ranks, name] = ranks * entry.memory_of_a_rank(asked) + entry.shared_memory_of_a_node(asked)
    for row, ((ranks, name), value) in enumerate(values.items()):
        y = 54 + 28 * row + 8 * (row // 3)
        if name == "allreduce":
            picture.text(24, y + 13, f"{ranks} ranks")
        width = 400 * value / max(values.values())
        picture.rect(LEFT, y, width, BAR, kinds[name])
        picture.text(LEFT + width + 8, y + 13, f"{value / 1e6:.0f}  {name}", "soft small")
    return picture


def wire() -> Picture:
    """What a host sends in a step, by the size of the global batch."""
    images = list(range(128, 4097, 128))
    sent = {
        name: [STRATEGIES[name].sent(demand((1, 1), count)) / 1e6 for count in images] for name in ("sharded", "hybrid")
    }
    meet = next(count for count, a, b in zip(images, sent["hybrid"], sent["sharded"], strict=True) if a > b)
    picture = Picture(720, 340, f"hybrid sends less than sharded up to some {meet} images a step")
    picture.text(24, 32, "What each of two hosts sends in a step, in MB, by the images of the step", "ink bold")
    left, bottom, width, height = 80, 290, 520, 220
    most = max(max(values) for values in sent.values())
    picture.path([(left, bottom - height), (left, bottom), (left + width, bottom)])
    for value in (0, 100, 200, 300):
        if value <= most:
            picture.text(left - 10, bottom - height * value / most + 5, str(value), "soft small end")
    for count in (128, 1024, 2048, 3072, 4096):
        picture.text(left + width * count / images[-1], bottom + 20, str(count), "soft small middle")
    for (name, values), kind in zip(sent.items(), ("line-b", "line-a"), strict=True):
        points = [
            (left + width * count / images[-1], bottom - height * value / most)
            for count, value in zip(images, values, strict=True)
        ]
        picture.path(points, kind)
        picture.text(points[-1][0] + 10, points[-1][1] + 5, name)
    note = f"at 128 images: {sent['hybrid'][0]:.0f} MB and {sent['sharded'][0]:.0f} MB"
    picture.text(left + 90, bottom - 16, note, "soft small")
    return picture


def hybrid() -> Picture:
    """Who computes what on two hosts."""
    layers = with_parameters()
    linear = [(name, layer) for name, layer in zip(names(layers), layers, strict=True) if name.startswith("fc")]
    images, step = 128, 86  # from one row of boxes to the next
    picture = Picture(
        720, 460, "Two hosts: convolutions of their own images, half of each fully connected layer's outputs"
    )
    picture.text(24, 32, f"hybrid: a step of {images} images on 2 hosts", "ink bold")
    for host, part in enumerate(divide(images, [1, 1])):
        x = 24 + 352 * host
        picture.text(x, 62, f"Host {host + 1}", "ink bold")
        rows = [("a", f"images {part.start + 1} to {part.stop}: all convolutions")]
        for name, layer in linear:
            own = divide(layer.output[0], [1, 1])[host]
            rows.append(
                ("c", f"{name}, all {images} images: outputs {own.start + 1} to {own.stop} of {layer.output[0]}")
            )
        for row, (kind, text) in enumerate(rows):
            picture.rect(x, 74 + step * row, 320, 34, kind)
            picture.text(x + 160, 96 + step * row, text, "on small middle")
    for row, (name, layer) in enumerate(linear):
        top, bottom = 112 + step * row, 156 + step * row
        for start, end in ((230, 490), (490, 230)):
            picture.path([(start, top), (end, bottom)], arrow=True)
        picture.text(24, top + 26, f"{name}'s inputs, {math.prod(layer.input)} an image", "soft small")
    for y, text in (
        (
            406,
            "Backward, the gradients of these activations travel the other way. Of the fully connected layers' weights",
        ),
        (424, "nothing travels: who has some rows of them computes their gradient, for all images, and updates them."),
        (442, "The gradients of the convolutions, which are small, are summed over the hosts."),
    ):
        picture.text(24, y, text, "soft small")
    return picture


PICTURES: dict[str, Callable[[], Picture]] = {
    "network.svg": network,
    "winograd-work.svg": winograd_work,
    "winograd-tiles.svg": winograd_tiles,
    "hybrid.svg": hybrid,
    "memory.svg": memory,
    "wire.svg": wire,
}


def patterns() -> Image.Image:
    """Three pictures of each class of the tutorial, drawn by its own program."""
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    program = re.search(r'^```python title="draw.py"\n(.*?)^```', page, re.M | re.S)
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", program[1], "3"], cwd=folder, check=True)
        files = sorted(Path(folder, "patterns").glob("*/*.jpg"))
        sheet = Image.new("RGB", (5 * 128, 3 * 128), "white")
        for index, file in enumerate(files):
            sheet.paste(Image.open(file).resize((120, 120)), (128 * (index // 3), 128 * (index % 3)))
    return sheet


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (DOCS / "pictures" / name).write_text(str(draw()), encoding="utf-8")
    patterns().save(DOCS / "pictures" / "patterns.jpg", quality=85)
