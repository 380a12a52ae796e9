"""Requests share one network: those that wait are computed together, in one thread beside the event loop."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from alexnet_dist.model.explain import Explained

# Of crops [N, S, S, 3], and whether maps are wanted: the probabilities [N, classes], and the maps if so.
Compute = Callable[[np.ndarray, bool], tuple[np.ndarray, Explained | None]]


class Full(Exception):
    """More requests wait than may."""


@dataclass(eq=False)
class Job:
    """A crop [S, S, 3] that waits for its turn; its result is Compute's, and its place in it."""

    crop: np.ndarray
    wants_map: bool
    result: "asyncio.Future[tuple[np.ndarray, Explained | None, int]]"


class Turns:
    """A queue of at most `most` requests, computed in the order in which they came, up to `batch` at once."""

    def __init__(self, compute: Compute, batch: int, most: int) -> None:
        self._compute, self._batch, self._most = compute, batch, most
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self.waiting = 0  # requests that have a place

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keeps a place for a request from its upload's end to its answer. Raises Full if there is none."""
        if self.waiting >= self._most:
            raise Full
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def answer(self, crop: np.ndarray, wants_map: bool) -> tuple[np.ndarray, Explained | None, int]:
        """The probabilities [classes] of a crop, and where in which maps its own is."""
        job = Job(crop, wants_map, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.result

    async def run(self) -> None:
        """Computes until it is cancelled."""
        try:
            while True:
                await self._turn(await self._next())
        finally:
            self._thread.shutdown(wait=False)

    async def _next(self) -> list[Job]:
        jobs = [await self._jobs.get()]
        with suppress(asyncio.QueueEmpty):
            while len(jobs) < self._batch:
                jobs.append(self._jobs.get_nowait())
        return [job for job in jobs if not job.result.done()]  # a request that was cancelled needs none

    async def _turn(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        crops, maps = np.stack([job.crop for job in jobs]), any(job.wants_map for job in jobs)
        loop = asyncio.get_running_loop()
        try:
            probabilities, explained = await loop.run_in_executor(self._thread, self._compute, crops, maps)
        except Exception as error:  # each request has it, and the next ones have their turn
            failure: Exception | None = error
        else:
            failure = None
        for index, job in enumerate(jobs):
            if job.result.done():  # cancelled meanwhile
                continue
            if failure is not None:
                job.result.set_exception(failure)
            else:
                job.result.set_result((probabilities[index], explained if job.wants_map else None, index))
