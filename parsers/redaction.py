"""What of L7 records is not shown: settings, and their application to what a reader sees.

Records are redacted as they are decoded, so that no output has to think of it: nothing but
``L7Record.content`` and the labels of metrics gives their texts away, and both go through here.
Filters see what is shown, and so cannot be used to guess.

The rules are Hubble's (options ``hubble-redact-*``).
"""

from __future__ import annotations

from dataclasses import dataclass

from parsers.go_url import REDACTED, print_url


@dataclass(frozen=True, slots=True)
class Redaction:
    """What to leave out; without arguments what Hubble leaves out by default: passwords in URLs.

    ``shown_headers`` are the only ones whose values are shown, in lower case; None shows all
    but ``hidden_headers``.
    """

    url_query: bool = False  # with the fragment
    user_info: bool = True
    kafka_api_key: bool = False
    shown_headers: frozenset[str] | None = None
    hidden_headers: frozenset[str] = frozenset()

    def url(self, text: bytes) -> str:
        """The URL of a record as it is shown."""
        return print_url(text, without_password=self.user_info, without_query=self.url_query)

    def header(self, name: str, value: str) -> str:
        """The value of a header as it is shown."""
        key = name.lower()
        hidden = key in self.hidden_headers
        if self.shown_headers is not None:
            hidden = key not in self.shown_headers
        return REDACTED if hidden else value

    def api_key(self, text: str) -> str:
        """A Kafka record's API key as it is shown."""
        return REDACTED if self.kafka_api_key else text


DEFAULT_REDACTION = Redaction()
