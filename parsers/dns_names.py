"""Names of DNS record types and response codes, as Hubble prints them.

Hubble knows those of gopacket's DNS layer and prints ``Unknown`` for the others (CAA and
SPF among them). Numbers: IANA, "Domain Name System (DNS) Parameters".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

UNKNOWN = "Unknown"

TYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "A", 2: "NS", 3: "MD", 4: "MF", 5: "CNAME", 6: "SOA", 7: "MB", 8: "MG", 9: "MR",
        10: "NULL", 11: "WKS", 12: "PTR", 13: "HINFO", 14: "MINFO", 15: "MX", 16: "TXT",
        28: "AAAA", 33: "SRV", 41: "OPT", 46: "RRSIG", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS",
        256: "URI",
    }
)  # fmt: skip

RESPONSE_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "No Error",
        1: "Format Error",
        2: "Server Failure",
        3: "Non-Existent Domain",
        4: "Not Implemented",
        5: "Query Refused",
        6: "Name Exists when it should not",
        7: "RR Set Exists when it should not",
        8: "RR Set that should exist does not",
        9: "Server Not Authoritative for zone",
        10: "Name not contained in zone",
        16: "Bad OPT Version",
        17: "Key not recognized",
        18: "Signature out of time window",
        19: "Bad TKEY Mode",
        20: "Duplicate key name",
        21: "Algorithm not supported",
        22: "Bad Truncation",
        23: "Bad Cookie",
    }
)


def type_name(number: int) -> str:
    """``A``, ``AAAA``, …"""
    return TYPES.get(number, UNKNOWN)


def response_code_name(number: int) -> str:
    """Hubble keeps eight bits of the code."""
    return RESPONSE_CODES.get(number & 0xFF, UNKNOWN)
