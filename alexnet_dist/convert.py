"""python -m alexnet_dist.convert: weights between our checkpoints, safetensors, torchvision's .pth, and ONNX."""

import argparse
from dataclasses import replace
from pathlib import Path

from alexnet_dist import cli
from alexnet_dist.data.class_names import match_classes, read_class_names
from alexnet_dist.model.architecture import parameter_map
from alexnet_dist.runs.folder import weights_in
from alexnet_dist.support.files import check_writable
from alexnet_dist.support.plural import plural
from alexnet_dist.weights.formats import FORMATS, format_of

EXAMPLES = """\
The suffixes say the formats. .safetensors: a checkpoint of ours, or torchvision's weights; what is written is both.
.pth, .pt: torchvision's state_dict (needs PyTorch). .onnx: a graph for any runtime, from images [N, 3, H, W], float32
and normalised, to logits (needs the package onnx). The optimizer's state is left out.

examples:
  alexnet-convert alexnet-owt-7be5be79.pth imagenet.safetensors --class-names imagenet.txt
  alexnet-convert runs/alexnet alexnet.onnx
"""


def build_parser() -> cli.Parser:
    """The flags of alexnet-convert."""
    parser = cli.Parser("alexnet-convert", "Convert the weights of AlexNet.", EXAMPLES)
    parser.add_argument("source", type=Path, metavar="IN", help=f"one of {', '.join(FORMATS)}; or a run's folder")
    parser.add_argument("output", type=Path, metavar="OUT", help="the same; a file of that name is replaced")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="one name a line, for weights without names")
    return parser


def body(args: argparse.Namespace) -> int:
    """Reads, writes, and says what it was."""
    source = weights_in(args.source)
    reader, writer = format_of(source), format_of(args.output)
    check_writable(args.output)
    header, flat = reader.read(source)
    classes = header.network.num_classes
    if args.class_names:
        names, _ = match_classes(None, read_class_names(args.class_names), classes, source)
        header = replace(header, class_names=names)
    writer.write(args.output, replace(header, training=None), flat)
    named = "with" if header.class_names and not writer.weights_alone else "without"
    print(
        f"{args.output}: AlexNet of {parameter_map(header.network).size:,} parameters, "
        f"{plural(classes, 'class', 'classes')} {named} names"
    )
    of_images = f"image size {header.network.image_size}, {header.network.interpolation} interpolation"
    if reader.weights_alone:
        print(f"  {source} holds weights alone: {of_images} are assumed")
    if writer.weights_alone:
        print(f"  it holds weights alone: {of_images}{', class names' * bool(header.class_names)} are left out")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
