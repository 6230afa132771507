from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bridge.identity import file as identity_file
from bridge.identity.file import World, load_identity_file, parse_identity
from parsers.errors import UsageError
from parsers.world import directory_of
from tests import fixtures


@pytest.mark.parametrize("release", fixtures.RELEASES)
def test_every_recorded_world_is_an_identity_file(tmp_path: Path, release: str) -> None:
    world = fixtures.world(release)
    path = tmp_path / "world.json"
    path.write_text(json.dumps(world))
    assert world == load_identity_file(path)


def test_yaml_says_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "world.yaml"
    world = {"ips": [{"cidr": "10.0.0.0/8", "identity": 2}], "node": {"name": "n"}}
    path.write_text(yaml.safe_dump(world))
    assert world == load_identity_file(path)


@pytest.mark.parametrize(
    ("suffix", "pack"), [("json.gz", gzip.compress), ("yaml.xz", lzma.compress)]
)
def test_a_compressed_file_says_the_same_and_a_damaged_one_is_told(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"world.{suffix}"
    packed = pack(b'{"node": {"name": "n"}}' if "json" in suffix else b"node:\n  name: n\n")
    path.write_bytes(packed)
    assert {"node": {"name": "n"}} == load_identity_file(path)
    path.write_bytes(packed[:-6])
    with pytest.raises(UsageError, match="compressed data is damaged"):
        load_identity_file(path)


@pytest.mark.parametrize(
    ("world", "place"),
    [
        ({"endpoint": []}, "unknown field `endpoint`"),
        ({"endpoints": [{"id": 70000}]}, "$.endpoints[0].id"),
        ({"endpoints": [{"id": 1, "policy": [{"direction": "up"}]}]}, "direction"),
        ({"services": [{"ip": "10.0.0.1", "port": "http", "name": "x"}]}, "$.services[0].port"),
        ({"ips": [{"cidr": "10.0.0.0/8"}, {"cidr": "x"}]}, "'x' is not a prefix, such as"),
        ({"ips": [{"cidr": "10.0.0.0/8"}, {"cidr": "x"}]}, "$.ips[1]"),
        ({"endpoints": [{"id": 1, "ipv6": "10.0.0"}]}, "ipv6 '10.0.0' is not an ip address"),
        ({"services": [{"ip": "x", "port": 1, "name": "x"}]}, "$.services[0]"),
        ({"dns": [{"ip": "x", "endpoint": 1, "names": []}]}, "'x' is not an ip address"),
        ({"base_time": "yesterday"}, "base_time 'yesterday' is not a time, such as"),
        ({"base_time": "9999-01-01T00:00:00Z"}, "is not a time"),
        ({"step_ns": 1 << 63}, "$.step_ns"),
        ([], "expected `object`"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(world: object, place: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_identity(json.dumps(world).encode(), "w.json")
    assert place in str(told.value)
    assert "w.json" in str(told.value)


def test_text_that_is_no_json_is_told() -> None:
    with pytest.raises(UsageError, match="truncated"):
        parse_identity(b"{", "w.json")
    with pytest.raises(UsageError, match="JSON is malformed"):
        parse_identity(b"{x", "w.json")
    with pytest.raises(UsageError, match=r"no UTF-8 text .*; save it as UTF-8"):
        parse_identity(b'{"node": {"name": "\xe0"}}', "w.json")


def test_a_missing_file_is_told() -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_identity_file(Path("/nonexistent/world.json"))


def test_an_empty_file_of_identities_is_nobody_known() -> None:
    directory_of(parse_identity(b"{}", "w.json"))


def test_the_page_about_the_file_names_every_key() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "identity-file.md"
    text = page.read_text()
    structs = [s for s in vars(identity_file).values() if isinstance(s, type(World))]
    keys = {key for struct in structs for key in struct.__struct_fields__}
    assert keys
    assert [] == sorted(key for key in keys if f"`{key}`" not in text)
