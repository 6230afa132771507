"""URLs as Go's ``net/url`` understands and prints them.

An access log carries a URL as text that the agent's encoder made; Go parses it while it
decodes and refuses the whole record when it cannot, and what it prints afterwards is not
always what came in. Nearly all URLs are ``_PLAIN``: accepted, printed unchanged.

Source: documentation of package net/url (as of Go 1.25), RFC 3986, RFC 6874.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

REDACTED = "HUBBLE_REDACTED"
"""What Hubble prints in place of a secret."""

_UNRESERVED = rb"A-Za-z0-9\-_.~"
_PATH = _UNRESERVED + rb"$&+,/:;=@"  # printed as they are
_PATH_AS_SENT = _PATH + rb"!'()*\[\]"  # printed so if the sender wrote them so
_HOST = _UNRESERVED + rb"!$&'()*+,;=:\[\]<>\""
_USER = _UNRESERVED + rb"$&+,;="
_FRAGMENT = _PATH + rb"?!()*"
_FRAGMENT_AS_SENT = _FRAGMENT + rb"'\[\]"

_PLAIN = re.compile(
    rb"(?:https?://[A-Za-z0-9\-_.~]+(?::[0-9]*)?)?"
    rb"/(?!/)[%b]*(?:%%[0-9A-Fa-f]{2}[%b]*)*(?:\?[^\x00-\x1f\x7f#?]*)?"
    % (_PATH_AS_SENT, _PATH_AS_SENT)
)
_ESCAPE = re.compile(rb"%(..)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*):")
_PORT = re.compile(rb"(?::[0-9]*)?")
_USER_INFO = re.compile(rb"[%b:@!'()*%%]*" % _USER)


class _RefusedError(Exception):
    """Go would not parse it."""


@dataclass(frozen=True, slots=True)
class _Url:
    scheme: bytes
    opaque: bytes
    user: tuple[bytes, bytes | None] | None  # name, password; unescaped
    host: bytes  # unescaped
    omit_host: bool
    path: bytes  # as sent
    query: bytes  # with its question mark
    fragment: bytes  # as sent


def is_plain_url(text: bytes) -> bool:
    """Whether it is one that anybody accepts and prints as it is."""
    return _PLAIN.fullmatch(text) is not None


def accepts_url(text: bytes) -> bool:
    """Whether Go can parse it."""
    if _PLAIN.fullmatch(text):
        return True
    try:
        _parse(text)
    except _RefusedError:
        return False
    return True


def print_url(text: bytes, *, without_password: bool = True, without_query: bool = False) -> str:
    """What Hubble shows of a URL that ``accepts_url``; the query goes with the fragment."""
    if not _PLAIN.fullmatch(text):
        text = _print(_parse(text), without_password, without_query)
    elif without_query:
        path, mark, query = text.partition(b"?")
        text = path if query else path + mark  # Go keeps a question mark that stands alone
    return text.decode("utf-8", "replace")


def _parse(text: bytes) -> _Url:
    rest, _, fragment = text.partition(b"#")
    _unescape(fragment)
    if _CONTROL.search(rest):
        raise _RefusedError
    if rest.startswith(b":"):
        raise _RefusedError
    scheme = b""
    if match := _SCHEME.match(rest):
        scheme, rest = match[1].lower(), rest[match.end() :]
    rest, mark, query = rest.partition(b"?")
    query = mark + query
    opaque, user, host, omit_host = b"", None, b"", False
    if not rest.startswith(b"/"):
        if scheme:
            opaque, rest = rest, b""
        elif b":" in rest.partition(b"/")[0]:
            raise _RefusedError
    elif rest.startswith(b"//") and (scheme or not rest.startswith(b"///")):
        authority, slash, rest = rest[2:].partition(b"/")
        rest = slash + rest
        user, host = _parse_authority(authority)
    else:
        omit_host = scheme != b""
    _unescape(rest)
    return _Url(scheme, opaque, user, host, omit_host, rest, query, fragment)


def _parse_authority(authority: bytes) -> tuple[tuple[bytes, bytes | None] | None, bytes]:
    info, at, host = authority.rpartition(b"@")
    host = _parse_host(host)
    if not at:
        return None, host
    if not _USER_INFO.fullmatch(info):
        raise _RefusedError
    name, colon, password = info.partition(b":")
    return (_unescape(name), _unescape(password) if colon else None), host


def _parse_host(host: bytes) -> bytes:
    bracket = host.rfind(b"[")
    if bracket > 0:
        raise _RefusedError
    if bracket == 0:
        literal, close, port = host[1:].rpartition(b"]")
        if not close or not _PORT.fullmatch(port):
            raise _RefusedError
        name, percent, zone = literal.partition(b"%25")
        address = _unescape_host(name) + (_unescape_zone(percent + zone) if percent else b"")
        try:
            IPv6Address(address.decode("utf-8", "surrogateescape"))
        except (AddressValueError, ValueError):
            raise _RefusedError from None
        return b"[" + address + b"]" + port
    # Of many colons the last counts. Programs declared for Go 1.26 refuse them in web URLs;
    # Cilium 1.19 is for 1.25.
    colon = host.rfind(b":")
    if colon >= 0 and not _PORT.fullmatch(host[colon:]):
        raise _RefusedError
    return _unescape_host(host)


def _unescape(text: bytes) -> bytes:
    if _BAD_ESCAPE.search(text):
        raise _RefusedError
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text)


_HOST_BYTES = re.compile(rb"[%b%%\x80-\xff]*" % _HOST)
_ESCAPED_ASCII = re.compile(rb"%(?!25)[0-7]")


def _unescape_host(text: bytes) -> bytes:
    if not _HOST_BYTES.fullmatch(text) or _ESCAPED_ASCII.search(text):
        raise _RefusedError
    return _unescape(text)


_ZONE_ESCAPED = re.compile(rb"[%b ]*" % _HOST)


def _unescape_zone(text: bytes) -> bytes:
    escaped = b"".join(_unescape(m[0]) for m in _ESCAPE.finditer(text) if m[0] != b"%25")
    if not _HOST_BYTES.fullmatch(text) or not _ZONE_ESCAPED.fullmatch(escaped):
        raise _RefusedError
    return _unescape(text)


def _escape(text: bytes, keep: re.Pattern[bytes]) -> bytes:
    return keep.sub(lambda match: b"%%%02X" % match[0][0], text)


_NOT_PATH = re.compile(rb"[^%b]" % _PATH)
_NOT_HOST = re.compile(rb"[^%b]" % _HOST)
_NOT_USER = re.compile(rb"[^%b]" % _USER)
_NOT_FRAGMENT = re.compile(rb"[^%b]" % _FRAGMENT)
_VALID_PATH = re.compile(rb"[%b%%]*" % _PATH_AS_SENT)
_VALID_FRAGMENT = re.compile(rb"[%b%%]*" % _FRAGMENT_AS_SENT)


def _print(url: _Url, without_password: bool, without_query: bool) -> bytes:
    out = url.scheme + b":" if url.scheme else b""
    path = url.path
    if path != b"*" and not _VALID_PATH.fullmatch(path):
        path = _escape(_unescape(path), _NOT_PATH)
    if url.opaque:
        out += url.opaque
    else:
        if (url.scheme or url.host or url.user) and not (
            url.omit_host and not url.host and not url.user
        ):
            if url.host or path or url.user:
                out += b"//"
            if url.user:
                name, password = url.user
                out += _escape(name, _NOT_USER)
                if password is not None:
                    shown = REDACTED.encode() if without_password else password
                    out += b":" + _escape(shown, _NOT_USER)
                out += b"@"
            out += _escape(url.host, _NOT_HOST)
        if not out and b":" in path.partition(b"/")[0]:
            out += b"./"
        out += path
    if not without_query or url.query == b"?":
        out += url.query
    if url.fragment and not without_query:
        fragment = url.fragment
        if not _VALID_FRAGMENT.fullmatch(fragment):
            fragment = _escape(_unescape(fragment), _NOT_FRAGMENT)
        out += b"#" + fragment
    return out
