"""The two families of errors, told apart by whose fault they are.

``UsageError`` is ours or the user's: its text says what to change.
``ProtocolError`` is the peer's: bytes that do not mean what the format says.
Nothing else may leave a decoder.
"""

from __future__ import annotations


class UsageError(Exception):
    """The caller or the user asked for something impossible; the text has the remedy."""


class ProtocolError(Exception):
    """Bytes of a peer that break their format.

    ``error_class`` is one of the classes the loss ledger books (see
    ``parsers.ledger.ERROR_CLASSES``); ``offset`` counts bytes from the start of
    the record; ``excerpt`` is at most 16 bytes around it, in hex.
    """

    def __init__(
        self, text: str, *, error_class: str = "decode", offset: int = 0, excerpt: bytes = b""
    ) -> None:
        self.error_class = error_class
        self.offset = offset
        self.excerpt = bytes(excerpt[:16]).hex()
        where = f" at offset {offset}" if offset else ""
        shown = f" (bytes {self.excerpt})" if self.excerpt else ""
        super().__init__(f"{text}{where}{shown}")
