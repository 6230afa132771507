"""Ending a program: SIGINT and SIGTERM as an ordinary event on the loop."""

from __future__ import annotations

import signal

import trio


async def wait_for_end(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> str:
    """The name of the signal that asks to end; started once signals are caught."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            return signal.Signals(number).name
    raise AssertionError("the receiver ended")  # pragma: no cover


async def end_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel ``scope`` when a signal asks to end."""
    await wait_for_end(task_status)
    scope.cancel()
