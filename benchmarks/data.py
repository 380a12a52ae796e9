"""Input: images a second and core from files and from packed shards, and what reading them costs training.

    python benchmarks/data.py [--against torch]

The benchmark makes JPEGs of the size that ImageNet's have in the mean, 500 x 375 pixels and 110 KB, and packs them.
"loading" is one pass over them: read, decode, random-resized crop of 224, flip, normalise, in the batches of training, by
--workers threads; with --against torch, torchvision's DataLoader over Pillow does the same with as many worker processes.
"training" is the trainer itself on full-size AlexNet, with --threads threads and as many that decode: from files, from
shards, and on synthetic input, whose batches are there at once. Its time is that of an epoch's steps without the first two
and the last, during which less is decoded than in the others. All take turns; ratios are medians of the pairs. The files
have been read before, so they come from the page cache: a disk or file system is not measured.

The last line is JSON.
"""

import argparse
import io
import json
import shutil
import tempfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from common import Contender, OtherLoad, describe_machine, paired_ratio, race, serve
from PIL import Image, ImageDraw

from alexnet_dist.data.augment import MEAN, STD, Augmentation, load_for_training
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.sources import open_images
from alexnet_dist.preparation.pack import pack
from alexnet_dist.runs.metrics import read_rows
from alexnet_dist.support.randomness import Purpose, generator

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT, KILOBYTES = 500, 375, 110  # the mean of ImageNet's training images
TRAINING = ("files", "shards", "synthetic")
NOT_COUNTED = (2, 1)  # steps at the start and at the end of an epoch


def draw(number: int) -> bytes:
    """A JPEG of shapes and as much noise as makes it about 110 KB."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (WIDTH, HEIGHT), tuple(rng.integers(0, 256, 3).tolist()))
    canvas = ImageDraw.Draw(picture)
    for _ in range(30):
        left, top, width, height = rng.integers((-50, -50, 20, 20), (WIDTH, HEIGHT, 200, 200)).tolist()
        canvas.ellipse((left, top, left + width, top + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.normal(0, 1, (HEIGHT, WIDTH, 3))
    pixels = np.asarray(picture, np.float64)
    file = io.BytesIO()
    low, high = 0.0, 100.0  # strength of the noise: the file grows with it
    while high - low > 0.5:
        middle, file = (low + high) / 2, io.BytesIO()
        Image.fromarray((pixels + middle * noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        low, high = (middle, high) if file.tell() < 1000 * KILOBYTES else (low, middle)
    return file.getvalue()


def make_images(folder: Path, count: int, training: int) -> None:
    """`count` images in folder/images.list and folder/shards; training.list names `training` of them, again and again."""
    names = [f"{number % 10}/{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(draw(number))
    for stem, lines in (("images", count), ("training", training)):
        entries = [f"{index % count % 10} {names[index % count]}\n" for index in range(lines)]
        (folder / f"{stem}.list").write_text("".join(entries))
        pack(folder / f"{stem}.list", folder / f"{stem}-shards")


def work_loading(images: Path, workers: int, batch: int) -> None:
    """Serves passes over a list or shards by the trainer's loader."""
    source, augmentation = open_images(images), Augmentation()

    def load(index: int, epoch: int, out: np.ndarray) -> None:
        load_for_training(partial(source.open, index), augmentation, generator(0, Purpose.AUGMENT, epoch, index), out)

    loader = Loader(source, load=load, global_batch=batch, shuffle=True, workers=workers)
    serve({"epoch": lambda: sum(len(one.labels) for one in loader.batches(0)) and None})


def work_torchvision(images: Path, workers: int, batch: int) -> None:
    """Serves passes over a list by torchvision's transforms in PyTorch's DataLoader."""
    import torch
    from torchvision import transforms

    table = open_images(images)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN.tolist(), STD.tolist()),
        ]
    )

    class Listed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(table)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            with table.open(index) as file:
                return transform(Image.open(file).convert("RGB")), int(table.labels[index])

    loader = torch.utils.data.DataLoader(Listed(), batch, shuffle=True, num_workers=workers, persistent_workers=True)
    serve({"epoch": lambda: sum(len(labels) for _, labels in loader) and None})


def work_training(kind: str, folder: Path, threads: int, batch: int) -> None:
    """Serves epochs of the trainer; the time of an epoch is that of an image in the steps that count."""
    from mpi4py import MPI

    from alexnet_dist.comm.world import World
    from alexnet_dist.training.config import TrainingConfig
    from alexnet_dist.training.setup import open_run
    from alexnet_dist.training.trainer import Trainer

    loaded: list[int] = []  # of the noise
    noise = np.random.default_rng(0).standard_normal((224, 224, 3), dtype=np.float32)

    class SyntheticTrainer(Trainer):
        """Its batches hold noise, written once into the loader's buffers."""

        def _training_loader(self) -> Loader:
            def load(index: int, epoch: int, out: np.ndarray) -> None:
                loaded.append(index)
                if out[0, 0, 0] != noise[0, 0, 0]:
                    out[:] = noise

            return Loader(self.sources.train, load=load, global_batch=batch, workers=threads, shuffle=True)

    trainer = SyntheticTrainer if kind == "synthetic" else Trainer
    data = folder / ("training.list" if kind == "files" else "training-shards")

    def epoch() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            config = TrainingConfig(
                data=str(data),
                val=str(folder / "val.list"),
                num_classes=1000,
                epochs=1,
                global_batch=batch,
                lr=1e-4,
                threads=threads,
                output_dir=output,
                print_freq=10**6,
            )
            # Standard output is the benchmark's.
            with redirect_stdout(io.StringIO()), open_run(config, World(MPI.COMM_SELF)) as run:
                trainer(run).run()
            if (trainer is SyntheticTrainer) != bool(loaded):
                raise SystemExit("the trainer has not taken the loader that was meant for it")
            speeds = [row["images_per_second"] for row in read_rows(Path(output), "steps")]
        counted = speeds[NOT_COUNTED[0] : len(speeds) - NOT_COUNTED[1]]
        return {"seconds": sum(1 / speed for speed in counted) / len(counted)}

    serve({"image": epoch})


def compare_loading(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prints a line for each contender; returns what was measured, for JSON."""
    load, common = OtherLoad(), (str(args.workers), str(args.batch))
    contenders = [
        Contender(name, __file__, "loading", str(folder / images), *common)
        for name, images in (("files", "images.list"), ("shards", "images-shards"))
    ]
    if args.against:
        contenders.append(Contender("torchvision", __file__, "torchvision", str(folder / "images.list"), *common))
    race(contenders, args.rounds)
    print(f"loading, {args.workers} workers, batches of {args.batch} ({load})")
    result: dict[str, Any] = {"part": "loading", "workers": args.workers, "others_share": round(load.share(), 3)}
    for contender in contenders:
        speed = args.images / median(contender.seconds["epoch"]) / args.workers
        ratios = {one.name: paired_ratio(contender, one, "epoch") for one in contenders if one is not contender}
        print(f"  {contender.name:12} {speed:6.0f} images/s a worker   {shown(ratios)}")
        result[contender.name] = {"images_per_second_and_worker": round(speed, 1), "times_as_fast_as": rounded(ratios)}
    return result


def compare_training(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prints a line for each contender; returns what was measured, for JSON."""
    load = OtherLoad()
    contenders = [
        Contender(kind, __file__, "training", kind, str(folder), str(args.threads), str(args.batch))
        for kind in TRAINING
    ]
    race(contenders, args.rounds, warmup=1)
    print(f"training, {args.threads} threads, batches of {args.batch} ({load})")
    result: dict[str, Any] = {"part": "training", "threads": args.threads, "others_share": round(load.share(), 3)}
    for contender in contenders:
        ratios = {"synthetic": paired_ratio(contender, contenders[-1], "image")}
        speed = 1 / median(contender.seconds["image"])
        print(f"  {contender.name:12} {speed:6.1f} images/s   {shown(ratios)}")
        result[contender.name] = {"images_per_second": round(speed, 2), "times_as_fast_as": rounded(ratios)}
    return result


def shown(ratios: dict[str, float]) -> str:
    """For people: times as fast as each."""
    return ", ".join(f"{ratio:.3f} times {name}" for name, ratio in ratios.items())


def rounded(ratios: dict[str, float]) -> dict[str, float]:
    """For JSON."""
    return {name: round(ratio, 4) for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("loading", "training"), default=["loading", "training"])
    parser.add_argument("--images", type=int, default=512, metavar="N", help="that are made (default: 512)")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="images a step (default: 128)")
    parser.add_argument("--steps", type=int, default=9, metavar="N", help="of an epoch of training (default: 9)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that load (default: 2)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads that train (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each contender (default: 5)")
    parser.add_argument("--against", choices=["torch"], help="compare with torchvision (pip install torchvision)")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, *words = args.worker
        work: Callable[..., None] = work_torchvision if kind == "torchvision" else work_loading
        if kind == "training":
            return work_training(words[0], Path(words[1]), int(words[2]), int(words[3]))
        return work(Path(words[0]), int(words[1]), int(words[2]))
    if args.steps <= sum(NOT_COUNTED):
        parser.error(f"--steps is {args.steps}, but must be more than {sum(NOT_COUNTED)}, which don't count")
    machine = describe_machine("pillow", "torch", "torchvision")
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    folder = Path(tempfile.mkdtemp(prefix="alexnet-images-"))
    try:
        make_images(folder, args.images, args.steps * args.batch)
        (folder / "val.list").write_text("0 0/0.jpg\n")
        parts = {"loading": compare_loading, "training": compare_training}
        results = [parts[part](folder, args) for part in args.parts]
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"machine": machine, "results": results}))
    return None


if __name__ == "__main__":
    main()
