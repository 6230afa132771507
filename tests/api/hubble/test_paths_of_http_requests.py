"""Which part of a URL a path filter sees; the expectations were printed by Go's net/url."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from api.hubble.filter_fields import http_tests
from api.v1.flow import flow_pb2
from parsers.l7 import Http, HttpLabels, L7Content


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", None),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a%2Fb%20c", "/a/b c"),
        ("/a?q=1", "/a"),
        ("/a#f", "/a#f"),
        ("/a b", "/a b"),
        ("/a\nb", None),
        ("/%zz", None),
        ("*", "*"),
        ("a/b", None),
        ("//h/p", "//h/p"),
        (":x", None),
        ("1a:/b", None),
        ("mailto:x", ""),
        ("http://h/p", "/p"),
        ("http://h", ""),
        ("http://h:80/p?x", "/p"),
        ("http://h:x/p", None),
        ("http://[::1]/p", "/p"),
        ("http:///p", "/p"),
        ("https://u:p@h/x", "/x"),
        ("http://h/a b", "/a b"),
        ("http://h h/p", None),
        ("http://h%zz/p", None),
        ("http://[::1/p", None),
        ("http:/p", "/p"),
        ("http:p/%zz", ""),
        ("HTTP://H/x", "/x"),
        ("/%C3%A9", "/é"),
        ("?q", None),
        ("http://h?x=/y", ""),
    ],
)
def test_a_path_filter_sees_what_go_takes_for_the_path(url: str, path: str | None) -> None:
    record = Http(200, "GET", url, "HTTP/1.1", ())
    labels = HttpLabels(record.method, record.protocol, record.code)
    l7 = SimpleNamespace(labels=labels, content=lambda: L7Content(record, ""))
    detail: Any = SimpleNamespace(l7=l7)

    def matches(expression: str) -> bool:
        (test,) = http_tests(flow_pb2.FlowFilter(http_path=[expression]))
        return test(detail)

    assert matches(".*") is (path is not None)
    assert path is None or matches(f"^{re.escape(path)}$")
