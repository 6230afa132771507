"""An asyncio loop in a thread of its own, beside trio's: for libraries that want one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import trio


class AsyncioThread:
    """Made in trio's thread. ``start`` it, and ``stop`` it before trio ends."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = trio.Event()

    async def start(self) -> None:
        """Returns when the loop runs."""
        self._thread.start()
        await self.run(lambda: asyncio.sleep(0))

    async def stop(self) -> None:
        """End the loop and the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        await self._ended.wait()

    def to_trio(self, function: Callable[[], object]) -> None:
        """From asyncio: call ``function`` over there, if there still is somebody."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    async def run(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """From trio: await a coroutine over there; its result or exception comes here."""
        done = trio.Event()
        outcome: list[Any] = []

        async def run() -> None:
            try:
                outcome.extend((await make(), None))
            except Exception as error:  # noqa: BLE001  # it goes on over there
                outcome.extend((None, error))
            self.to_trio(done.set)

        self.loop.call_soon_threadsafe(self.begin, run())
        await done.wait()
        result, error = outcome
        if error is not None:
            raise error
        return result

    def begin(self, task: Coroutine[Any, Any, None]) -> None:
        """From asyncio: run ``task`` beside."""
        begun = self.loop.create_task(task)
        self._tasks.add(begun)  # the loop itself holds tasks only weakly
        begun.add_done_callback(self._tasks.discard)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.to_trio(self._ended.set)
