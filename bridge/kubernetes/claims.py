"""Who has which address: what objects claim, put in order of time.

Several objects can claim one address: a pod that ends and the one that got its address, a
node by two kinds of objects. The one of the highest rank has it. The times of changes:

* What the first list says holds since ever.
* A claim holds since its object says it may have begun, but not since before the one who
  had the address gave it back. So flows from before it was heard of get its name.
* What is given back keeps its name for ``TOMBSTONE`` more, for events that are read late,
  unless somebody else claims it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

from parsers.directory import Directory, Owner

TOMBSTONE: Final = 500_000_000
"""ns that a name outlives its object. Addresses are used again after a second or more."""

REMEMBERED: Final = 300 * 10**9
"""ns for which it is remembered who had an address, for events and updates that come late."""

Rank: TypeAlias = tuple[int, bool, int, str]
"""Kind of object; not about to end; begin (ns); name."""


@dataclass(slots=True, eq=False)
class Claimant:
    """An object with addresses, and as what it was published."""

    rank: Rank = (0, False, 0, "")
    owner: Owner | None = None
    row: int = 0  # of the directory's owners
    addresses: tuple[bytes, ...] = ()
    since: int = 0  # when it got the addresses (ns; 0: ever)
    changed: int = 0  # when ``owner`` became what it is


class AddressClaims:
    """Fills a directory's table of owners. Times are ns; 0 is since ever."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._claims: dict[bytes, Claimant | list[Claimant]] = {}
        self._given_back: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that are claimed."""
        return len(self._claims)

    def publish(
        self, claimant: Claimant, owner: Owner | None, addresses: tuple[bytes, ...],
        rank: Rank, at: int,
    ) -> None:  # fmt: skip
        """From ``at`` on ``claimant`` is ``owner`` and has ``addresses``, and no others."""
        if owner == claimant.owner and addresses == claimant.addresses and rank == claimant.rank:
            return
        before = claimant.addresses
        relabelled = owner != claimant.owner
        if relabelled:
            claimant.owner = owner
            claimant.row = self._directory.owners.add(owner) if owner is not None else 0
        contested = [a for a in before if isinstance(self._claims[a], list)]
        winners = [self._winner(address) for address in contested]
        claimant.addresses, claimant.rank = addresses, rank
        for address in before:
            if address not in addresses:
                self._give_back(claimant, address, at)
            elif relabelled and self._winner(address) is claimant:
                # Of a kind that is listed for the first time: since ever, but not before its time.
                for since in {max(at, claimant.since), max(at, claimant.changed)}:
                    self._directory.set_owner(claimant.row, (address,), since)
        for address, winner in zip(contested, winners, strict=True):
            if address in addresses and self._winner(address) is not winner:
                self._give(self._winner(address), address, at)
        claimant.changed = max(at, claimant.changed)
        for address in addresses:
            if address not in before:
                self._claim(claimant, address, at)

    def _winner(self, address: bytes) -> Claimant:
        found = self._claims[address]
        return max(found, key=_rank_of) if isinstance(found, list) else found

    def _claim(self, claimant: Claimant, address: bytes, at: int) -> None:
        began = claimant.rank[2]
        since = min(began, at) if began else at
        found = self._claims.get(address)
        if found is None:
            self._claims[address] = claimant
            ended = self._given_back.pop(address, None)
            if ended is not None:
                since = max(since, ended)
                if since < ended + TOMBSTONE:  # which is when the last one's name ends
                    self._directory.set_owner(claimant.row, (address,), ended + TOMBSTONE)
            self._give(claimant, address, since)
            return
        others = found if isinstance(found, list) else [found]
        best = max(others, key=_rank_of)
        self._claims[address] = [*others, claimant]
        if claimant.rank > best.rank:
            self._give(claimant, address, max(since, best.since))

    def _give_back(self, claimant: Claimant, address: bytes, at: int) -> None:
        found = self._claims[address]
        if isinstance(found, list):
            had = max(found, key=_rank_of) is claimant
            others = [other for other in found if other is not claimant]
            self._claims[address] = others if len(others) > 1 else others[0]
            if had:
                self._give(max(others, key=_rank_of), address, at)
            return
        del self._claims[address]
        self._directory.set_owner(0, (address,), at + TOMBSTONE)
        self._given_back[address] = at
        while self._given_back and next(iter(self._given_back.values())) < at - REMEMBERED:
            self._given_back.popitem(last=False)

    def _give(self, claimant: Claimant, address: bytes, since: int) -> None:
        claimant.since = since
        self._directory.set_owner(claimant.row, (address,), since)


def _rank_of(claimant: Claimant) -> Rank:
    return claimant.rank
