from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from bridge.config import ConfigError, parse_config
from bridge.node_address import hubble_address


@pytest.mark.parametrize(
    ("sections", "told", "address"),
    [
        ({"hubble": {"listen": "10.0.0.7:4254", "insecure": True}}, {}, "10.0.0.7:4254"),
        ({"hubble": {"listen": ":4244", "insecure": True}}, {"ipv4": "10.0.0.5"}, "10.0.0.5:4244"),
        ({"hubble": {"listen": "[::]:1", "insecure": True}}, {"ipv6": "fd00::5"}, "[fd00::5]:1"),
        (
            {
                "hubble": {"listen": "0.0.0.0:4244", "insecure": True},
                "node": {"address": "192.168.1.2"},
            },
            {"ipv4": "10.0.0.5"},
            "192.168.1.2:4244",
        ),
        ({"hubble": {"unix_socket": "/run/x.sock"}}, {"ipv4": "10.0.0.5"}, "unix:///run/x.sock"),
        ({"hubble": {"unix_socket": None}}, {"ipv4": "10.0.0.5"}, ""),
    ],
)
def test_the_address_is_one_that_a_relay_can_dial(
    sections: dict[str, Any], told: dict[str, Any], address: str
) -> None:
    assert hubble_address(parse_config(sections, {}), told) == address


def test_without_any_hint_it_is_one_of_this_machine_or_none() -> None:
    config = parse_config({"hubble": {"listen": ":4244", "insecure": True}}, {})
    if found := hubble_address(config, {}):
        host, _, port = found.rpartition(":")
        assert port == "4244"
        assert not ip_address(host.strip("[]")).is_unspecified


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"node": {"address": "node-a"}}, {})
    assert caught.value.problems == [
        "node.address: 'node-a' is not an ip address, such as 10.0.0.5"
    ]
