"""The small languages in which filters name things: names, FQDNs, nodes, ports, codes.

Each function compiles a text of the request to a test, or raises ``UsageError`` with
Hubble's own words where clients print them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Protocol

import re2

from parsers.errors import UsageError
from parsers.go_text import quote


class Expression(Protocol):
    """A compiled regular expression. RE2's take linear time whatever a client sends."""

    def search(self, text: str, /) -> object | None:
        """Something when it is found in the text."""

    def fullmatch(self, text: str, /) -> object | None:
        """Something when it is the text."""


NameTest = Callable[[str, str], bool]
"""Of a namespace and a name."""

_QUOTES: Mapping[str, str] = MappingProxyType({"'": "\\'", '"': '"'})  # as Go quotes a character
_NOT_FQDN = re.compile(r"[^a-z0-9._*-]")
_ANY_NODE = r"[-0-9_a-z]+(?:\.[-0-9_a-z]+)*"
# ``\C`` outside of ``\Q...\E``; possessive, so that it takes linear time.
_ANY_BYTE = re.compile(r"(?:[^\\]|\\[^CQ]|(?>\\Q.*?(?:\\E|\Z)))*+\\C", re.DOTALL)
# What RE2 says to what Go says.
_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "missing ): ": "missing closing )",
        "missing ]: ": "missing closing ]",
        "unexpected ): ": "unexpected )",
        "invalid perl operator: ": "invalid or unsupported Perl syntax",
        "invalid escape sequence: ": "invalid escape sequence",
        "invalid character class range: ": "invalid character class range",
        "bad repetition operator: ": "invalid nested repetition operator",
        "no argument for repetition operator: ": "missing argument to repetition operator",
        "invalid repetition size: ": "invalid repeat count",
        "invalid named capture group: ": "invalid named capture",
        "pattern too large": "expression too large",
    }
)
_PREFIX = re.compile(r"[^/%]+/(?:0|[1-9][0-9]{0,2})")  # no netmask, no zone
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|[0-9]?\+)")


def name_prefix(text: str) -> NameTest:
    """``namespace/prefix`` of a pod or service; without a slash in namespace ``default``."""
    if not text:
        raise UsageError("invalid filter, name must not be empty")
    namespace, slash, rest = text.partition("/")
    prefix = rest.split("/", 1)[0]
    if not slash:
        namespace, prefix = "default", text

    def matches(of_namespace: str, name: str) -> bool:
        if not of_namespace and not name:
            return False
        return namespace in ("", of_namespace) and name.startswith(prefix)

    return matches


def fqdn(text: str) -> Expression:
    """A DNS name in which ``*`` is any run of letters, digits, dots and dashes."""
    return _compiled(_fqdn(text))


def _fqdn(text: str) -> str:
    pattern = text.strip().removesuffix(".").lower()
    if not pattern:
        raise UsageError("empty pattern")
    if pattern.endswith("."):
        raise UsageError("multiple trailing dots in pattern")
    if odd := _NOT_FQDN.search(pattern):
        shown = _QUOTES.get(odd[0]) or quote(odd[0].encode())[1:-1]
        raise UsageError(f"'{shown}': invalid rune in pattern")
    return re.escape(pattern).replace(r"\*", "[-.a-z0-9]*")


def node_name(text: str) -> Expression:
    """``[cluster/]node``, matched against an absolute name (``default/`` is explicit)."""
    if not text:
        raise UsageError("empty pattern")
    if text.count("/") > 1:
        raise UsageError("too many slashes in pattern")
    cluster, slash, node = text.partition("/")
    if not slash:
        cluster, node = "", text
    return _compiled("/".join(_fqdn(side) if side else _ANY_NODE for side in (cluster, node)))


def absolute_node_name(name: str) -> str:
    """The name with its cluster; empty stays empty."""
    return name if not name or "/" in name else f"default/{name}"


def expression(text: str) -> Expression:
    r"""A regular expression, to be searched for anywhere.

    Hubble's are of Go's package regexp, which has RE2's syntax but for ``\C``.
    """
    found = _compiled(text)
    if _ANY_BYTE.match(text):
        raise UsageError("error parsing regexp: invalid escape sequence: `\\C`")
    return found


def _compiled(text: str) -> Expression:
    options = re2.Options()
    options.log_errors = False
    try:
        found: Expression = re2.compile(text, options)
    except re2.error as error:
        raise UsageError(f"error parsing regexp: {_as_go_says(error, text)}") from None
    return found


def _as_go_says(error: Exception, text: str) -> str:
    reason: str = error.args[0].decode("utf-8", "replace")
    if reason.startswith("trailing "):
        return "trailing backslash at end of expression: ``"
    for ours, theirs in _REASONS.items():
        if reason.startswith(ours):
            about = text if ours == "missing ): " else reason.removeprefix(ours)
            return f"{theirs}: `{about}`"
    return reason


def status_code(text: str) -> Callable[[int], bool]:
    """``404``, or ``4+`` and ``40+`` for all codes that begin so."""
    if not _STATUS.fullmatch(text):
        raise UsageError(f"invalid status code prefix: {quote(text.encode())}")
    prefix = text.removesuffix("+")
    if prefix == text:
        return lambda code: str(code) == text
    return lambda code: str(code).startswith(prefix)


def port(text: str) -> int:
    """A port number; there are no ranges."""
    if not text.isascii() or not text.isdigit():
        reason = "invalid syntax"
    elif int(text[:8]) > 0xFFFF:
        reason = "value out of range"
    else:
        return int(text)
    shown = quote(text.encode())
    raise UsageError(f"invalid port {shown}: strconv.ParseUint: parsing {shown}: {reason}")


def networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """Prefixes; an address is one of full length.

    An address that is not written the canonical way equals no text of a flow and is left out.
    """
    found: list[IPv4Network | IPv6Network] = []
    for text in texts:
        if "/" in text:
            try:
                if not _PREFIX.fullmatch(text):
                    raise ValueError(text)
                found.append(ip_network(text, strict=False))
            except ValueError:
                raise UsageError(
                    f"invalid IP prefix {quote(text.encode())} in filter: no prefix"
                ) from None
            continue
        try:
            address = ip_address(text)
        except ValueError:
            raise UsageError(
                f"invalid IP address {quote(text.encode())} in filter: no address"
            ) from None
        if str(address) == text:
            found.append(ip_network(text))
    return found
