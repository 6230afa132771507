"""Ending a program: SIGINT and SIGTERM as an ordinary event on the loop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

_DRAIN = 0.01


async def run_until_signal(
    task: Callable[[], Awaitable[object]], told: Callable[[str], None] = lambda _: None
) -> None:
    """Run ``task`` to its end, or until a signal cancels it; ``told`` gets the signal's name.

    More signals on the way out are ignored: a group is often signalled twice.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for number in signals:
                    told(signal.Signals(number).name)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await task()
            nursery.cancel_scope.cancel()
        with trio.move_on_after(_DRAIN):
            async for _ in signals:
                pass
