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
_OTHER_ROWS = 14  # lines of the screen that are not flows


def live_view(
    tally: Tally, hints: Sequence[str], *, unexplained: int, elapsed: float, height: int
) -> RenderableType:
    """The whole screen; ``unexplained`` is what the loss ledger cannot account for."""
    head = Text.assemble(
        ("ciliary demo", "bold"),
        f"   {elapsed:.0f} s   {tally.flows_per_second():,.0f} flows/s   {tally.flows:,} flows",
        f"   lost {tally.lost:,}   unexplained {unexplained:,}",
    )
    flows = Table.grid(padding=(0, 1), expand=True)
    for ratio, width in ((None, 12), (3, None), (3, None), (None, 14), (None, 10), (2, None)):
        flows.add_column(ratio=ratio, width=width, no_wrap=True, overflow="ellipsis")
    for line in list(tally.recent)[-max(3, height - _OTHER_ROWS - len(hints)) :]:
        flows.add_row(*cells(line))
    counts = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        counts.add_column(ratio=1)
    counts.add_row(_bars("verdicts", tally.verdicts), _bars("drop reasons", tally.drop_reasons))
    return Group(
        head,
        Panel(flows, title="flows"),
        counts,
        Text("\npaste into another terminal, Ctrl-C ends:", style="bold"),
        *(Text(f"  {hint}", style="cyan") for hint in hints),
    )


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
