"""The demo's live view: pure functions from counts to what rich draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bridge.demo.tally import FlowLine, Tally

_COLOURS = {"FORWARDED": "green", "DROPPED": "red", "AUDIT": "yellow", "REDIRECTED": "cyan"}
_FULL, _WIDE, _MEDIUM = 100, 80, 60  # columns for all; not the time; only ends and verdict
_HIGH = 20  # lines for the counts to be shown
_COUNTS = 6  # lines of the counts
_FEWEST = 3  # flows of a view that has hints


def fits(hints: Sequence[str], width: int, height: int) -> bool:
    """Whether the whole view with its hints has room, none of them cut or wrapped."""
    longest = max(map(len, hints), default=0) + 2
    return width >= max(_WIDE, longest) and height >= _other_lines(hints, width, _HIGH) + _FEWEST


def live_view(
    tally: Tally,
    hints: Sequence[str],
    *,
    unexplained: int,
    elapsed: float,
    width: int,
    height: int,
) -> RenderableType:
    """The whole screen; ``unexplained`` is what the loss ledger cannot account for.

    A narrow one has no columns but the ends of a flow, and a low one no counts.
    """
    parts: list[RenderableType] = [_head(tally, unexplained, elapsed, width)]
    flows = _flows(
        list(tally.recent)[-max(1, height - _other_lines(hints, width, height)) :], width
    )
    parts.append(Panel(flows, title="flows") if width >= _MEDIUM else flows)
    if height >= _HIGH:
        parts.append(_counts(tally, width))
    if hints:
        parts.append(Text("\npaste into another terminal, Ctrl-C ends:", style="bold"))
        parts += [Text(f"  {hint}", style="cyan", no_wrap=True) for hint in hints]
    return Group(*parts)


def _other_lines(hints: Sequence[str], width: int, height: int) -> int:
    """Lines of the screen that are not flows; one stays free for the cursor."""
    head = 1 if width >= _WIDE else 2
    frame = 2 if width >= _MEDIUM else 0
    counts = _COUNTS if height >= _HIGH else 0
    return head + frame + counts + (2 + len(hints) if hints else 0) + 1


def _head(tally: Tally, unexplained: int, elapsed: float, width: int) -> Text:
    return Text.assemble(
        ("ciliary demo", "bold"),
        f"   {elapsed:.0f} s   {tally.flows_per_second():,.0f} flows/s",
        "   " if width >= _WIDE else "\n",
        f"{tally.flows:,} flows   lost {tally.lost:,}   unexplained {unexplained:,}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _flows(lines: Sequence[FlowLine], width: int) -> Table:
    columns = _columns(width)
    table = Table.grid(padding=(0, 1), expand=True)
    for _, ratio, fixed in columns:
        table.add_column(ratio=ratio, width=fixed, no_wrap=True, overflow="ellipsis")
    for line in lines:
        row = cells(line)
        style = _COLOURS.get(line.verdict, "") if width < _MEDIUM else ""
        table.add_row(*(row[cell] for cell, _, _ in columns), style=style)
    return table


def _columns(width: int) -> Sequence[tuple[int, int | None, int | None]]:
    """Which of the cells there is room for; its ratio, or its width."""
    if width >= _FULL:
        return (0, None, 12), (1, 3, None), (2, 3, None), (3, None, 14), (4, None, 10), (5, 2, None)
    if width >= _WIDE:
        return (1, 3, None), (2, 3, None), (3, None, 14), (4, None, 10), (5, 2, None)
    if width >= _MEDIUM:
        return (1, 1, None), (2, 1, None), (4, None, 10)
    return (1, 1, None), (2, 1, None)


def _counts(tally: Tally, width: int) -> Table:
    verdicts = _bars("verdicts", tally.verdicts)
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1)
    if width >= _WIDE:
        table.add_column(ratio=1)
        table.add_row(verdicts, _bars("drop reasons", tally.drop_reasons))
    else:
        table.add_row(verdicts)
    return table


def cells(line: FlowLine) -> list[Text]:
    """A flow as the cells of a row; control characters of a peer are taken out."""
    texts = (line.time, line.source, line.destination, line.point, line.verdict, line.summary)
    row = [Text("".join(c if c.isprintable() else "?" for c in text)) for text in texts]
    row[4].stylize(_COLOURS.get(line.verdict, ""))
    return row


def plain_line(line: FlowLine) -> str:
    """A flow as one line of text."""
    time, source, destination, point, verdict, summary = (cell.plain for cell in cells(line))
    return f"{time} {source} -> {destination} {point} {verdict} ({summary})"


def _bars(title: str, counts: Counter[str], rows: int = 5) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row(Text(title, style="bold"))
    total = max(1, counts.total())
    for name, count in counts.most_common(rows):
        bar = "█" * max(1, round(16 * count / total))
        table.add_row(Text(name), f"{count:,}", Text(bar, style=_COLOURS.get(name, "blue")))
    return table
