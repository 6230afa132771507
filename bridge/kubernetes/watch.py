"""One kind of objects kept current: list, watch, and what to do when either fails.

Sans-I/O: ``request`` says what to ask for next, and what came of it is told to ``page`` or
``lines``, which give back pieces for the sink, or to ``ended`` or ``failed``.

* A list comes in pages. With the last one come the keys that were known before and were in
  no page: a relist forgets nothing that is still there, and nothing at all before it is
  complete. A page that did not arrive is asked for again.
* A watch begins at the list's version and is resumed at the last one heard of, in an event
  or a bookmark. The server ends it after ``timeoutSeconds``, drawn from the upper half of
  ``WATCH``, so that a cluster's agents do not come back in step.
* When the version is compacted away (410, as an answer or as an event), or is one that the
  server does not know, the list is made again.
* What a list no longer has went at a time nobody knows; it is dated by when it was last known to be
  there, since whoever had its address after that may have come and gone unheard.
* An object that cannot be decoded is counted, and left as it was if it was known.

The protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Raw

from bridge.backoff import Backoff
from bridge.kubernetes.objects import Key, Object
from bridge.kubernetes.resources import Resource
from bridge.kubernetes.sink import SINCE_EVER
from bridge.kubernetes.wire import (
    DECODE_ERRORS,
    ObjectList,
    RefusedError,
    decode_bare,
    decode_bookmark,
    decode_event,
    decode_list,
    refusal,
)

PAGE: Final = 250  # objects at most; pods have 2 to 10 KB each
PAGE_BYTES: Final = 1 << 20  # that a page should have; to look through one takes 1 ms
WATCH: Final = 480.0  # s; the server would allow an hour

_STEADY = 5.0  # s after which a watch that brought nothing may be asked for again at once
_FORBIDDEN = 403
_MOST_EXPIRED_PAGES = 2  # times that a list in pages is begun again; then it comes in one


@dataclass(frozen=True, slots=True)
class Piece:
    """For the sink: objects and keys that are gone, together at most a resource's ``piece``."""

    changed: list[Object]
    removed: list[Key]
    at: int


@dataclass(slots=True)
class WatchCounts:
    """Since the start: lists by why they began, watches, objects told, failures by why,
    objects that could not be decoded.
    """

    lists: Counter[str] = field(default_factory=Counter)
    watches: int = 0
    changes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    malformed: int = 0


class ObjectWatch:
    """What is known of one resource, and what to ask for next.

    ``complaint`` says why it is not current, empty when it is; ``lost_at`` is since when
    (of ``now``, s), None when it is. ``forbidden``: because we have no right to it.
    """

    __slots__ = (
        "_backoff", "_began", "_clock", "_continues", "_decode", "_draw", "_error",
        "_expired_pages", "_fruitful", "_heard", "_known", "_limit", "_now", "_quiet_since",
        "_seen", "_version", "_why", "complaint", "counts", "forbidden", "has_listed", "lost_at",
        "resource",
    )  # fmt: skip

    def __init__(
        self,
        resource: Resource,
        clock: Callable[[], int],
        *,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.resource = resource
        self.counts = WatchCounts()
        self.complaint = ""
        self.lost_at: float | None = now()
        self.has_listed = False
        self.forbidden = False
        self._clock = clock
        self._now = now
        self._draw = draw
        self._backoff = Backoff(draw=draw)
        self._decode = msgspec.json.Decoder(resource.kind).decode
        self._known: set[Key] = set()
        self._version = ""  # empty: a list is to be made, or under way
        self._why = "first"
        self._continues = ""
        self._limit = PAGE  # objects of the next page
        self._seen: set[Key] = set()  # in the list that is under way
        self._expired_pages = 0
        self._heard = SINCE_EVER  # when the server last told that it is current
        self._began = 0.0  # the watch under way
        self._fruitful = False  # it brought something
        self._quiet_since: float | None = None  # it brought nothing more
        self._error: RefusedError | None = None  # it was ended by this

    def __len__(self) -> int:
        """Objects known."""
        return len(self._known)

    @property
    def is_listing(self) -> bool:
        """Whether the next request is for a page of a list, and not for a watch."""
        return not self._version

    def request(self) -> str:
        """Path and query of what to ask for now."""
        query: dict[str, str | int] = {}
        if self.resource.fields:
            query["fieldSelector"] = self.resource.fields
        if not self.is_listing:
            self.counts.watches += 1
            query["watch"] = 1
            query["allowWatchBookmarks"] = "true"
            query["resourceVersion"] = self._version
            query["timeoutSeconds"] = int(self._draw(WATCH / 2, WATCH))
        elif self._continues:
            query |= {"limit": self._limit, "continue": self._continues}
        else:
            self._seen = set()
            self.counts.lists[self._why] += 1
            if self._expired_pages <= _MOST_EXPIRED_PAGES:
                query["limit"] = self._limit
        return f"{self.resource.path}?{urlencode(query)}"

    @property
    def list_goes_on(self) -> bool:
        """Whether the page that ``page`` was told last is followed by another one."""
        return bool(self._continues)

    def page(self, body: bytes | bytearray) -> Iterator[Piece]:
        """An answer to a list. ``RefusedError`` when it is none.

        The next page may be asked for before these pieces are taken, but not told.
        """
        try:
            page = decode_list(body)
        except DECODE_ERRORS as error:
            raise RefusedError(f"{self.resource.name}: the answer is not a list: {error}") from None
        objects = page.items or []
        if objects:
            self._limit = max(1, min(PAGE, PAGE_BYTES * len(objects) // len(body)))
        self._continues = page.metadata.continues
        self._backoff.reset()
        return self._pieces(page, self._clock() if self.has_listed else SINCE_EVER)

    def _pieces(self, page: ObjectList, at: int) -> Iterator[Piece]:
        changed: list[Object] = []
        for raw in page.items or ():
            if (found := self._object(raw)) is not None:
                changed.append(found)
            if len(changed) == self.resource.piece:
                yield self._piece(changed, (), at)
                changed = []
        yield self._piece(changed, (), at)
        if not page.metadata.continues:
            yield from self._list_is_complete(page.metadata.resource_version, at)

    def began(self) -> None:
        """The server answers a watch."""
        self._began, self._fruitful = self._now(), False
        self._is_current()

    def lines(self, lines: Iterable[bytes]) -> Iterator[Piece]:
        """Events of a watch, a line each. ``RefusedError`` when the server ends it by one."""
        at = self._clock()
        changed: dict[Key, Object] = {}
        removed: set[Key] = set()
        for line in lines:
            if (found := self._event(line, at)) is None:
                continue
            key = found.key
            full = len(changed) + len(removed) == self.resource.piece
            if full or key in changed or key in removed:
                # A piece says one thing of an object, so that what is short-lived is told, too.
                yield self._piece(changed.values(), removed, at)
                changed, removed = {}, set()
            if isinstance(found, self.resource.kind):
                changed[key] = found
            else:
                removed.add(key)
        if changed or removed:
            yield self._piece(changed.values(), removed, at)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def ended(self) -> None:
        """A watch came to its end, as it does from time to time. ``RefusedError`` when at once."""
        if not self._fruitful and self._now() - self._began < _STEADY:
            raise RefusedError(f"{self.resource.name}: the server ended the watch at once")
        self._backoff.reset()

    def went_quiet(self, seconds: float) -> None:
        """A watch brought nothing for so long: whether it is current the next answer tells."""
        self._quiet_since = self._now() - seconds

    def begin_anew(self, why: str) -> None:
        """List again; what is known stays known until that is complete."""
        if self.has_listed:
            self._why = why
        self._version = self._continues = ""

    def failed(self, error: Exception) -> float:
        """It is not current any more; returns how long to wait before asking again (s)."""
        self.complaint = str(error)
        self.forbidden = isinstance(error, RefusedError) and error.status == _FORBIDDEN
        if self.lost_at is None:
            self.lost_at = self._now() if self._quiet_since is None else self._quiet_since
        if self._fruitful:  # the connection was good for something
            self._backoff.reset()
            self._fruitful = False
        delay = self._backoff.next_delay()
        if not isinstance(error, RefusedError):
            self.counts.failures["unreachable"] += 1
            return delay
        self.counts.failures[str(error.status) if error.status else "answer"] += 1
        if error.is_about_version:
            self._expired_pages += bool(self._continues)
            self.begin_anew("expired")
        # Jitter on top, since many are told the same.
        return max(delay, error.wait * self._draw(1.0, 1.25))

    def forget(self) -> Iterator[Piece]:
        """The resource is no more: all that was known of it is gone."""
        at = self._clock()
        gone = list(self._known)
        self._known, self._version, self._continues, self._why = set(), "", "", "back"
        yield from self._gone(gone, at)

    def _list_is_complete(self, version: str, at: int) -> Iterator[Piece]:
        gone = list(self._known - self._seen)
        self._known, self._seen = self._seen, set()
        yield from self._gone(gone, self._heard)
        self._heard = at
        self._version = version
        self._expired_pages = 0
        self.has_listed = True
        self._is_current()

    def _gone(self, gone: list[Key], at: int) -> Iterator[Piece]:
        for start in range(0, len(gone), self.resource.piece):
            yield self._piece((), gone[start : start + self.resource.piece], at)

    def _is_current(self) -> None:
        self.complaint, self.lost_at, self._quiet_since = "", None, None
        self.forbidden = False

    def _object(self, raw: Raw) -> Object | None:
        try:
            found: Object = self._decode(raw)
        except DECODE_ERRORS:
            self.counts.malformed += 1
            with contextlib.suppress(*DECODE_ERRORS):
                self._seen.add(decode_bare(raw).key)  # it is there, whatever it is
            return None
        self._seen.add(found.key)
        self._known.add(found.key)
        return found

    def _event(self, line: bytes, at: int) -> Object | None:
        """The object that an event says is changed, of the resource's kind, or gone, bare."""
        try:
            event = decode_event(line)
            if event.type == "ERROR":
                self._error = refusal(event.object, self.resource.name)
                return None
            if event.type == "BOOKMARK":
                self._version = decode_bookmark(event.object).metadata.resource_version
                self._fruitful, self._heard = True, at
                return None
            bare = decode_bare(event.object)
        except DECODE_ERRORS:
            self.counts.malformed += 1
            return None
        self._fruitful, self._heard = True, at
        self._version = bare.metadata.resource_version or self._version
        if event.type == "DELETED":
            self._known.discard(bare.key)
            return bare
        try:
            found: Object = self._decode(event.object)
        except DECODE_ERRORS:
            self.counts.malformed += 1
            return None
        self._known.add(found.key)
        return found

    def _piece(self, changed: Iterable[Object], removed: Iterable[Key], at: int) -> Piece:
        piece = Piece(list(changed), list(removed), at)
        self.counts.changes += len(piece.changed) + len(piece.removed)
        return piece
