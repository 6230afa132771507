"""The small languages in which filters name things: names, FQDNs, nodes, ports, codes.

Each function compiles a text of the request to a test, or raises ``UsageError`` with
Hubble's own words where clients print them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from parsers.errors import UsageError

NameTest = Callable[[str, str], bool]
"""Of a namespace and a name."""

_FQDN = re.compile(r"[a-z0-9._*-]*")
_ANY_NODE = r"[-0-9_a-z]+(?:\.[-0-9_a-z]+)*"
_LONGEST_EXPRESSION = 1024
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


def fqdn(text: str) -> re.Pattern[str]:
    """A DNS name in which ``*`` is any run of letters, digits, dots and dashes."""
    pattern = text.strip().lower()
    if not pattern:
        raise UsageError("empty pattern")
    pattern = pattern.removesuffix(".")
    if pattern.endswith("."):
        raise UsageError("multiple trailing dots in pattern")
    if not _FQDN.fullmatch(pattern):
        raise UsageError(f"'{text}': invalid rune in pattern")
    return re.compile(re.escape(pattern).replace(r"\*", "[-.a-z0-9]*"))


def node_name(text: str) -> re.Pattern[str]:
    """``[cluster/]node``, matched against an absolute name (``default/`` is explicit)."""
    if not text:
        raise UsageError("empty pattern")
    if text.count("/") > 1:
        raise UsageError("too many slashes in pattern")
    cluster, slash, node = text.partition("/")
    if not slash:
        cluster, node = "", text
    sides = (fqdn(side).pattern if side else _ANY_NODE for side in (cluster, node))
    return re.compile("/".join(sides))


def absolute_node_name(name: str) -> str:
    """The name with its cluster; empty stays empty."""
    return name if not name or "/" in name else f"default/{name}"


def expression(text: str) -> re.Pattern[str]:
    """A regular expression, to be searched for anywhere.

    Hubble takes RE2's syntax; of Python's that is a superset but for look-around and
    back-references, and for run time: the length is bounded for that reason.
    """
    if len(text) > _LONGEST_EXPRESSION:
        raise UsageError(f"error parsing regexp: expression of {len(text)} characters is too long")
    if re.search(r"\(\?[=!<]|\(\?P=|\\[1-9]", text):
        raise UsageError(f"error parsing regexp: invalid or unsupported Perl syntax: `{text}`")
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"error parsing regexp: {error.msg}: `{text}`") from None


def status_code(text: str) -> Callable[[int], bool]:
    """``404``, or ``4+`` and ``40+`` for all codes that begin so."""
    if not _STATUS.fullmatch(text):
        raise UsageError(f'invalid status code prefix: "{text}"')
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
    raise UsageError(f'invalid port "{text}": strconv.ParseUint: parsing "{text}": {reason}')


def networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """Prefixes; an address is one of full length.

    An address that is not written the canonical way equals no text of a flow and is left out.
    """
    found: list[IPv4Network | IPv6Network] = []
    for text in texts:
        if "/" in text:
            try:
                found.append(ip_network(text, strict=False))
            except ValueError:
                raise UsageError(f'invalid IP prefix "{text}" in filter: no prefix') from None
            continue
        try:
            address = ip_address(text)
        except ValueError:
            raise UsageError(f'invalid IP address "{text}" in filter: no address') from None
        if str(address) == text:
            found.append(ip_network(text))
    return found
