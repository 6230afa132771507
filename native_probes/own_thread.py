"""Asking in the network namespace of the loop's thread, without holding the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_own_thread(ask: Callable[[], T]) -> T:
    """What ``ask`` returns or raises (``OSError``), called in a new thread.

    One that trio keeps may be in another network namespace. If this is cancelled, the thread goes
    on, and what it finds is not heard.
    """
    found: list[T] = []
    failed: list[OSError] = []
    done, token = trio.Event(), trio.lowlevel.current_trio_token()

    def run() -> None:
        try:
            found.append(ask())
        except OSError as error:
            failed.append(error)
        finally:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

    threading.Thread(target=run, name=ask.__name__, daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]
    return found[0]
