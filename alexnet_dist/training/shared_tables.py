"""Lists and indexes of shards, read by one rank of each node and shared with its other ranks."""

from collections.abc import Callable
from typing import Any

from alexnet_dist.comm.ranks import Ranks
from alexnet_dist.data.sources import STORED, Sources
from alexnet_dist.data.table import ImageTable


def share_images(world: Ranks, open_images: Callable[[], ImageTable]) -> ImageTable:
    """Collective: what `open_images` returns on the first rank of each node. Raises SharedError if it raises UserError."""
    _, (images,) = _share(world, lambda: (None, [open_images()]))
    return images


def share_sources(world: Ranks, read: Callable[[], Sources[ImageTable]]) -> Sources[ImageTable]:
    """Collective: what `read` returns on the first rank of each node. Raises SharedError if it raises UserError."""

    def tables() -> tuple[Any, list[ImageTable]]:
        sources = read()
        return [sources.num_classes, sources.class_names, sources.notes], [sources.train, sources.val]

    (num_classes, class_names, notes), (train, val) = _share(world, tables)
    return Sources(train, val, num_classes, class_names, tuple(notes))


def _share(world: Ranks, read: Callable[[], tuple[Any, list[ImageTable]]]) -> tuple[Any, list[ImageTable]]:
    def parts() -> tuple[Any, list[Any]]:
        more, tables = read()
        descriptions = [(type(table).__name__, table.facts(), list(table.arrays())) for table in tables]
        return [more, descriptions], [array for table in tables for array in table.arrays().values()]

    (more, descriptions), arrays = world.once_a_node(parts)
    following = iter(arrays)
    tables = [
        STORED[kind].rebuilt(facts, {name: next(following) for name in names}) for kind, facts, names in descriptions
    ]
    return more, tables
