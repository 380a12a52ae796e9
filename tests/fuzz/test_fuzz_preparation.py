"""As test_fuzz.py, for what alexnet-prepare reads."""

import gzip
import struct

from hypothesis import strategies as st
from ilsvrc import meta_mat, synsets
from mutations import changed, damaged, draw, fuzz

from alexnet_dist.data.decode import image_errors
from alexnet_dist.data.shards import read_shards
from alexnet_dist.preparation.idx import read_idx
from alexnet_dist.preparation.matlab import read_struct_array
from alexnet_dist.preparation.pack import pack, write_index


def test_shards(tmp_path):
    for number, kind in enumerate(("JPEG", "PNG", "JPEG")):
        (tmp_path / f"{number}.img").write_bytes(draw("RGB", kind))
    (tmp_path / "images.list").write_text("".join(f"{number} {number}.img\n" for number in range(3)))
    pack(tmp_path / "images.list", tmp_path / "shards")
    index = next(path for path in (tmp_path / "shards").iterdir() if path.suffix == ".npz")
    shard = next(path for path in (tmp_path / "shards").iterdir() if path.suffix == ".tar")
    contents = {path: path.read_bytes() for path in (index, shard)}

    def check(damage):
        for path, whole in contents.items():
            path.write_bytes(damage[1] if path == damage[0] else whole)
        if damage[0] == shard and len(damage[1]) % 2:
            write_index(tmp_path / "shards")
        shards = read_shards(tmp_path / "shards")
        for number in range(len(shards)):
            with image_errors(), shards.opener(number)() as file:
                file.read()

    at = contents[index].index(b"PK\x01\x02")  # the zip's entry for its first file: flags and method
    encrypted = changed(contents[index], [("replace", at + 8, b"\x01")])
    packed_otherwise = changed(contents[index], [("replace", at + 10, b"\x63")])
    fuzz(
        st.one_of(*(damaged(whole).map(lambda new, path=path: (path, new)) for path, whole in contents.items())),
        check,
        (index, encrypted),
        (index, packed_otherwise),
    )


def test_idx_files(tmp_path):
    plain = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24))

    def check(content):
        (tmp_path / "x").write_bytes(content)
        read_idx(tmp_path / "x", "images", ("images", "rows", "columns"))

    huge = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(range(24))
    fuzz(damaged(plain) | damaged(gzip.compress(plain, mtime=0)) | damaged(plain).map(gzip.compress), check, huge)


def test_matlab_files():
    whole = meta_mat(synsets())
    ends_early = changed(whole, [("replace", 161, b"\x01")])
    other_numbers = changed(whole, [("twice", 489, bytes(3))])
    no_fields = changed(whole, [("replace", 325, bytes(8))])
    fuzz(
        damaged(whole),
        lambda content: read_struct_array(content, "synsets"),
        ends_early,
        other_numbers,
        no_fields,
    )
