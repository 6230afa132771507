"""What the API server wraps objects in: lists, events of a watch, and what it says instead.

Objects stay raw here, so that one that is malformed costs no other.
Sources: Kubernetes API concepts (lists, watches), metav1.Status, metav1.APIResourceList.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from bridge.kubernetes.objects import Object

_EXPIRED = 410
_LONGEST_WAIT = 120.0  # s that we let a server make us wait


class ListMeta(Struct, frozen=True, rename="camel"):
    """``continues``: the token for the next page, empty on the last."""

    resource_version: Annotated[str, Meta(min_length=1)]
    continues: str = msgspec.field(default="", name="continue")


class ObjectList(Struct, frozen=True):
    """One page of a list. Without a version it is none, whatever else it is: an empty one
    would take all names away.
    """

    metadata: ListMeta
    items: list[Raw] | None = None


class WatchEvent(Struct, frozen=True):
    """``type``: ADDED, MODIFIED, DELETED, BOOKMARK, ERROR (the object is a ``Status``)."""

    type: str
    object: Raw


class Bookmark(Struct, frozen=True):
    """An object that is only a version: it has not even a name."""

    metadata: ListMeta


class _Cause(Struct, frozen=True):
    reason: str = ""


class _Details(Struct, frozen=True):
    causes: list[_Cause] | None = None


class Status(Struct, frozen=True):
    """Why a request was refused."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    @property
    def is_about_version(self) -> bool:
        """The version asked for is gone, or not there yet (as after a restored backup)."""
        causes = (self.details.causes if self.details is not None else None) or ()
        return self.code == _EXPIRED or any(c.reason == "ResourceVersionTooLarge" for c in causes)


class ApiResource(Struct, frozen=True):
    """A resource of a group and version."""

    name: str


class ApiResourceList(Struct, frozen=True):
    """Discovery: what a group and version has."""

    resources: list[ApiResource] | None = None


class RefusedError(Exception):
    """The server answered, but not what was asked for; the text is for people.

    ``status``: of HTTP, or 0 for an answer that makes no sense. ``wait``: s that it asks for.
    """

    def __init__(
        self, text: str, status: int = 0, *, wait: float = 0.0, is_about_version: bool = False
    ) -> None:
        super().__init__(text)
        self.status = status
        self.wait = wait
        self.is_about_version = is_about_version


DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError)
"""What bytes of the wrong form make msgspec raise."""

decode_list: Final = msgspec.json.Decoder(ObjectList).decode
decode_event: Final = msgspec.json.Decoder(WatchEvent).decode
decode_bookmark: Final = msgspec.json.Decoder(Bookmark).decode
decode_bare: Final = msgspec.json.Decoder(Object).decode
decode_resources: Final = msgspec.json.Decoder(ApiResourceList).decode
_decode_status: Final = msgspec.json.Decoder(Status).decode


def refusal(
    body: bytes | bytearray | Raw, resource: str, status: int = 0, retry_after: str = ""
) -> RefusedError:
    """An answer other than 200 (its HTTP status), or an ERROR event."""
    try:
        told = _decode_status(body)
    except DECODE_ERRORS:
        told = Status()
    code = status or told.code
    wait = min(float(retry_after), _LONGEST_WAIT) if retry_after.isdecimal() else 0.0
    text = told.message[:300] or told.reason or "no reason given"
    remedy = {
        401: "; are the credentials still valid?",
        403: f"; the agent's role needs list and watch on {resource}",
    }.get(code, "")
    return RefusedError(
        f"{resource}: {code} {text}{remedy}",
        code,
        wait=wait,
        is_about_version=told.is_about_version or code == _EXPIRED,
    )
