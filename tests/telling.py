"""What a run shall show at its end, whether it passed or not: seeds, figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

Tell: TypeAlias = Callable[[str], None]
TOLD = pytest.StashKey[list[str]]()
