"""``host:port`` texts of the configuration."""

from __future__ import annotations

from ipaddress import ip_address


def split_address(text: str) -> tuple[str, int]:
    """Host and port; an empty host means all interfaces. ``ValueError`` says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"'{text}' is not host:port, such as 127.0.0.1:4244 or :9965")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text}': an IPv6 address needs brackets, such as [::1]:4244")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
