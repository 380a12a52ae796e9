"""A tiny ILSVRC2012 in the layouts in which people have it: the official archives, torchvision's tree, Kaggle's."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01443537", "n01440764", "n02012849")  # goldfish, tench, crane bird: in the order of their ILSVRC2012_IDs
CLASSES = ("tench", "goldfish", "crane bird")  # in the order of the sorted wnids
TRAIN_COUNTS = (5, 3, 4)
TRUTH = (1, 3, 3, 2, 1, 2)  # ILSVRC2012_IDs of the validation images


class Ilsvrc:
    """The images, by their names; `write_...` lays them out."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.train = {
            wnid: {f"{wnid}_{7 * number}.JPEG": jpeg(rng) for number in range(count)}
            for wnid, count in zip(WNIDS, TRAIN_COUNTS, strict=True)
        }
        self.val = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(rng) for number in range(1, len(TRUTH) + 1)}
        self.val_wnids = {name: WNIDS[label - 1] for name, label in zip(self.val, TRUTH, strict=True)}

    def write_archives(self, folder: Path) -> Path:
        folder.mkdir()
        inner = {f"{wnid}.tar": tar(images) for wnid, images in self.train.items()}
        (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
        (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(dict(reversed(self.val.items()))))
        self.write_devkit(folder, meta_mat(synsets()))
        return folder

    def write_devkit(self, folder: Path, meta: bytes) -> None:
        truth = "".join(f"{label}\n" for label in TRUTH).encode()
        kit = {
            "readme.txt": b"the devkit",
            "data/meta.mat": meta,
            "data/ILSVRC2012_validation_ground_truth.txt": truth,
        }
        content = tar({f"ILSVRC2012_devkit_t12/{name}": file for name, file in kit.items()}, "w:gz")
        (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(content)

    def write_torchvision(self, folder: Path) -> Path:
        for wnid, images in self.train.items():
            write(folder / "train" / wnid, images)
        for name, image in self.val.items():
            write(folder / "val" / self.val_wnids[name], {name: image})
        return folder

    def write_kaggle(self, folder: Path) -> Path:
        images = folder / "ILSVRC/Data/CLS-LOC"
        for wnid, of_class in self.train.items():
            write(images / "train" / wnid, of_class)
        write(images / "val", self.val)
        mapping = "".join(f"{wnid} {name}, and so on\n" for wnid, name in zip(sorted(WNIDS), CLASSES, strict=True))
        (folder / "LOC_synset_mapping.txt").write_text(mapping)
        rows = [f"{name[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n" for name, wnid in reversed(self.val_wnids.items())]
        (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
        return folder


def jpeg(rng: np.random.Generator) -> bytes:
    height, width = rng.integers(40, 90, 2)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write(folder: Path, images: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        (folder / name).write_bytes(image)


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def synsets() -> list[dict[str, object]]:
    """As meta.mat has them: the classes, then the synsets above them."""
    low = [
        {"ILSVRC2012_ID": float(number), "WNID": wnid, "num_children": 0.0, "num_train_images": float(count)}
        for number, (wnid, count) in enumerate(zip(WNIDS, TRAIN_COUNTS, strict=True), 1)
    ]
    high = {"ILSVRC2012_ID": 4.0, "WNID": "n00001740", "num_children": 3.0, "num_train_images": 0.0}
    return [*low, high]


def meta_mat(structs: list[dict[str, object]], order: str = "<") -> bytes:
    """A MATLAB file, version 5, uncompressed, with one struct array `synsets` of texts and numbers."""
    fields = list(structs[0])
    names = b"".join(field.encode().ljust(32, b"\0") for field in fields)
    array = (
        flags(2, order) + element(5, struct.pack(f"{order}ii", len(structs), 1), order) + element(1, b"synsets", order)
    )
    array += small(5, struct.pack(f"{order}i", 32), order) + element(1, names, order)
    for one in structs:
        for field in fields:
            array += element(14, value(one[field], order), order)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49)
    return header + element(14, array, order)


def value(content: object, order: str) -> bytes:
    if isinstance(content, str):
        wide = "utf-16-le" if order == "<" else "utf-16-be"
        shape = struct.pack(f"{order}ii", 1, len(content))
        return (
            flags(4, order)
            + element(5, shape, order)
            + element(1, b"", order)
            + element(4, content.encode(wide), order)
        )
    number = struct.pack(f"{order}d", content)
    return (
        flags(6, order)
        + element(5, struct.pack(f"{order}ii", 1, 1), order)
        + element(1, b"", order)
        + element(9, number, order)
    )


def flags(kind: int, order: str) -> bytes:
    return element(6, struct.pack(f"{order}II", kind, 0), order)


def element(kind: int, data: bytes, order: str) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def small(kind: int, data: bytes, order: str) -> bytes:
    return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
