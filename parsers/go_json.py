"""JSON as Go's ``encoding/json`` reads it into structs and prints it again.

Go takes member names without regard to case, lets the last of equal ones win, ignores
unknown ones and nulls, and refuses a value of another type. Source: documentation of
package encoding/json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NoReturn, TypeAlias

from parsers.addresses import address_text, mapped

Members: TypeAlias = list[tuple[str, Any]]
"""An object in order, equal names and all."""

Convert: TypeAlias = Callable[[Any], Any]
"""A member's value to a field's, or ``MismatchError``."""


class MismatchError(Exception):
    """A value of another type than the struct wants."""


class _Object(list[tuple[str, Any]]):
    """Members, told from a list."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_MOST_DIGITS = 64  # of a number that any field could hold; Python refuses to read thousands


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float("inf")


def parse(text: str) -> Any:
    """The value; objects as lists of pairs. ValueError when it is not JSON."""
    try:
        return json.loads(
            text, object_pairs_hook=_Object, parse_int=_number, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def fields(value: Any, wanted: Mapping[str, Convert]) -> dict[str, Any]:
    """The wanted members of an object that are there and not null, converted."""
    found: dict[str, Any] = {}
    if value is None:
        return found
    if not isinstance(value, _Object):
        raise MismatchError
    folded = {name.casefold(): name for name in wanted}
    for member, content in value:
        name = folded.get(member.casefold())
        if name is not None and content is not None:
            found[name] = wanted[name](content)
    return found


def string(value: Any) -> str:
    """A string; halves of surrogate pairs become the replacement character."""
    if not isinstance(value, str):
        raise MismatchError
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def integer(low: int, high: int) -> Convert:
    """A whole number between two bounds, both included."""

    def convert(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise MismatchError
        return value

    return convert


def unsigned(bits: int) -> Convert:
    """An unsigned number of so many bits."""
    return integer(0, (1 << bits) - 1)


def array(element: Convert) -> Convert:
    """An array, as a tuple; nulls in it are dropped to empty strings by Go, and here."""

    def convert(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or isinstance(value, _Object):
            raise MismatchError
        return tuple("" if item is None else element(item) for item in value)

    return convert


def address(value: Any) -> str:
    """An IP address as Go's ``net.IP`` prints it; empty for none."""
    text = string(value)
    if not text:
        return ""
    try:
        if ":" in text and "%" not in text:
            return address_text(IPv6Address(text).packed)
        return address_text(mapped(IPv4Address(text).packed))
    except ValueError:
        raise MismatchError from None


_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')
_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML_CHARACTERS = re.compile("[<>&\u2028\u2029]")

_UNDECODED = re.compile("[\udc80-\udcff]")


def compact(text: str) -> str:
    """JSON text without spaces between its parts, safe for HTML."""
    packed = _STRING_OR_SPACE.sub(lambda match: match[1] or "", text)
    return _HTML_CHARACTERS.sub(lambda match: _HTML[match[0]], packed)


def quoted(text: bytes) -> str:
    r"""A string as JSON, safe for HTML; each byte that is not UTF-8 as ``\ufffd``."""
    escaped = json.dumps(text.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    escaped = _HTML_CHARACTERS.sub(lambda match: _HTML[match[0]], escaped)
    return _UNDECODED.sub(r"\\ufffd", escaped)
