"""Who has which address: what objects claim, put in order of time.

Several objects can claim one address: a pod that ends and the one that got its address, a
node by two kinds of objects. The strongest has it. When changes took place:

* What the first list says holds since ever.
* A claim holds since its object may have got the address, so that flows from before it was
  heard of get its name, and an end of the one before that was heard late does no harm. Times of
  objects are whole seconds, and addresses are used again after a second or more. Only if the
  one before was asked to end, and ended long after the new one began, that one waited for it.
* What is given back keeps its name for ``TOMBSTONE`` more, for events that are read late,
  unless somebody else claims it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from parsers.directory import Directory, Owner

TOMBSTONE: Final = 500_000_000
"""ns that a name outlives its object. Addresses are used again after a second or more."""

REMEMBERED: Final = 300 * 10**9
"""ns for which it is remembered who had an address, for events and updates that come late."""

_WAITED = 2 * 10**9  # ns; whoever began earlier than that before an end waited for it


BY_SLICE, BY_POD, BY_CILIUM_NODE, BY_NODE, BY_API_SERVER = range(5)
"""Kinds of claims, the strongest last."""


class Rank(NamedTuple):
    """Of a claim. ``kind``: the higher is the stronger. ``ends``: when its object has to be
    gone, 0 while it may stay; ``began``: when it may have got the address, 0 if unknown (ns).
    """

    kind: int = 0
    ends: int = 0
    began: int = 0

    def strength(self) -> tuple[int, bool, int]:
        """Of two claims to an address the one that is stronger by this has it; of two that are
        equal the one heard of later, since objects that Cilium wrote outlive their pods.
        """
        return self.kind, not self.ends, self.began


@dataclass(slots=True, eq=False)
class Claimant:
    """An object with addresses, and as what it was published."""

    rank: Rank = field(default_factory=Rank)
    owner: Owner | None = None
    row: int = 0  # of the directory's owners
    addresses: tuple[bytes, ...] = ()
    since: int = 0  # when it got the addresses (ns; 0: ever)


class _End(NamedTuple):
    """When an address was given back, as was heard (ns); ``asked``: after it was asked for."""

    heard: int
    asked: bool

    def begin_of(self, began: int, heard: int) -> int:
        """When the next one had the address, that began and was heard of then."""
        if not began:
            return heard
        return self.heard if self.asked and began + _WAITED <= self.heard else began


class AddressClaims:
    """Fills a directory's table of owners, at ``flush``. Times are ns; 0 is since ever."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._claims: dict[bytes, Claimant | list[Claimant]] = {}
        self._given_back: OrderedDict[bytes, _End] = OrderedDict()
        self._changes: list[tuple[bytes, int, int]] = []

    def __len__(self) -> int:
        """Addresses that are claimed."""
        return len(self._claims)

    def flush(self) -> None:
        """Tell the directory what was published."""
        if self._changes:
            self._directory.set_owners_for_good(self._changes)
            self._changes.clear()

    def contested(self) -> Iterator[int]:
        """Rows of owners that claim an address which somebody else may have."""
        for found in self._claims.values():
            if isinstance(found, list):
                yield from (claimant.row for claimant in found)

    def publish(
        self,
        claimant: Claimant,
        owner: Owner | None,
        addresses: tuple[bytes, ...],
        rank: Rank,
        at: int,
    ) -> None:
        """From ``at`` on ``claimant`` is ``owner`` and has ``addresses``, and no others."""
        relabelled = owner != claimant.owner
        if not relabelled and addresses == claimant.addresses and rank == claimant.rank:
            return
        before = claimant.addresses
        had = {address for address in before if self._holder(address) is claimant}
        if relabelled or (addresses and not claimant.row):  # pods are there before their addresses
            claimant.owner = owner
            claimant.row = self._directory.owners.add(owner) if owner and addresses else 0
        # Another one of the same name: the one before had gone by then, whenever that is heard.
        ended = min(at, rank.began) if rank.began > claimant.rank.began else at
        claimant.addresses, claimant.rank = addresses, rank
        for address in before:
            if address not in addresses:
                self._give_back(claimant, address, ended, had=address in had)
                continue
            holder = self._holder(address)
            if (holder is claimant) != (address in had):
                self._give(holder, address, at)
            elif relabelled and holder is claimant:
                # Of a kind that is listed for the first time: since ever, which is its time.
                since = max(at, claimant.since)
                self._changes.append((address, claimant.row, since))
        for address in addresses:
            if address not in before:
                self._claim(claimant, address, at)

    def _holder(self, address: bytes) -> Claimant:
        found = self._claims[address]
        return found if isinstance(found, Claimant) else max(reversed(found), key=_strength)

    def _claim(self, claimant: Claimant, address: bytes, at: int) -> None:
        began = min(claimant.rank.began, at)
        found = self._claims.get(address)
        if found is None:
            self._claims[address] = claimant
            ended = self._given_back.pop(address, None)
            self._give(claimant, address, ended.begin_of(began, at) if ended else began or at)
            return
        holder = self._holder(address)
        self._claims[address] = [*(found if isinstance(found, list) else [found]), claimant]
        if self._holder(address) is claimant:
            end = _end_of(holder, at)
            self._give(claimant, address, max(end.begin_of(began, at), holder.since))

    def _give_back(self, claimant: Claimant, address: bytes, at: int, *, had: bool) -> None:
        found = self._claims[address]
        if isinstance(found, list):
            others = [other for other in found if other is not claimant]
            self._claims[address] = others if len(others) > 1 else others[0]
            if had:
                self._give(self._holder(address), address, at)
            elif at + TOMBSTONE < self._holder(address).since:
                # It was last there before the next one began, and between nobody knows who was.
                self._directory.set_owner(0, (address,), at + TOMBSTONE)
            return
        del self._claims[address]
        self._changes.append((address, 0, at + TOMBSTONE))
        self._given_back[address] = _end_of(claimant, at)
        while self._given_back and next(iter(self._given_back.values())).heard < at - REMEMBERED:
            self._given_back.popitem(last=False)

    def _give(self, claimant: Claimant, address: bytes, since: int) -> None:
        claimant.since = since
        self._changes.append((address, claimant.row, since))


def _strength(claimant: Claimant) -> tuple[int, bool, int]:
    return claimant.rank.strength()


def _end_of(claimant: Claimant, heard: int) -> _End:
    ends = claimant.rank.ends
    return _End(min(ends, heard) if ends else heard, bool(ends))
