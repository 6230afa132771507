"""Running a command's task tree, with its errors as the command line wants them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from parsers.errors import ProtocolError, UsageError

T = TypeVar("T")


def run_until_done(task: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Like ``trio.run``; a usage or protocol error leaves its group as ``UsageError``."""
    try:
        return trio.run(task, *arguments)
    except (UsageError, ProtocolError) as error:
        raise UsageError(str(error)) from None
    except BaseExceptionGroup as group:
        told = group.subgroup((UsageError, ProtocolError))
        if told is None:
            raise
        leaf: BaseException = told
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        raise UsageError(str(leaf)) from None
