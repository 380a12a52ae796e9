"""Threads that read images. One that hangs, in a read that storage doesn't answer, keeps nobody from ending."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")

GRACE = 1.0  # seconds that one who gives up leaves to what is being read; images take some milliseconds


class Readers:
    """So many threads, which take tasks in their order.

    A ThreadPoolExecutor waits for its threads, at the latest when the process ends: for ever, if one of them hangs.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._serve, name=f"decode_{number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[..., Result], *args: Any) -> Future[Result]:
        """Begins `task(*args)` as soon as a thread is free."""
        future: Future[Result] = Future()
        self._tasks.put((future, partial(task, *args)))
        return future

    def close(self) -> None:
        """Ends the threads; what they have not begun is cancelled. One that hangs is left behind."""
        with suppress(Empty):
            while work := self._tasks.get_nowait():
                work[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self) -> None:
        while (work := self._tasks.get()) is not None:
            future, task = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except BaseException as error:  # for who asks for the result
                future.set_exception(error)
            del work, future, task  # or what they hold would live until the next task
