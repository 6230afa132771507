from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import main, root
from bridge.config import Config, ConfigError, load_config, parse_config


def problems(values: dict[str, object], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, environment or {})
    return caught.value.problems


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    told = problems(
        {
            "cilium": {"sockt": "/x", "release": "new"},
            "metrics": {"hubble": {"enabled": ["dns", "nonsense"], "listen": "9965"}},
            "histry": {},
            "log": {"level": "loud"},
        }
    )
    paths = {line.split(":")[0] for line in told}
    assert {
        "cilium.sockt",
        "cilium.release",
        "metrics.hubble.enabled",
        "metrics.hubble.listen",
        "histry",
        "log.level",
    } == paths


def test_an_unknown_key_is_told_with_the_keys_that_there_are() -> None:
    assert ["cilium.sockt: there is no such key; there is socket, api, release"] == problems(
        {"cilium": {"sockt": "/x"}}
    )


@pytest.mark.parametrize("listen", [":4244", "0.0.0.0:4244", "10.1.2.3:4244", "[::]:4244"])
def test_plain_tcp_that_others_can_reach_is_a_decision(listen: str) -> None:
    assert "insecure: true" in problems({"hubble": {"listen": listen}})[0]
    config = parse_config({"hubble": {"listen": listen, "insecure": True}}, {})
    assert listen == config.hubble.listen


@pytest.mark.parametrize("listen", ["127.0.0.1:4244", "localhost:4244", "[::1]:4244"])
def test_loopback_needs_no_decision(listen: str) -> None:
    assert listen == parse_config({"hubble": {"listen": listen}}, {}).hubble.listen


@pytest.mark.parametrize("address", ["4244", "host", "::1:4244", "host:99999", "host:http"])
def test_an_address_that_is_none_is_told_with_an_example(address: str) -> None:
    (told,) = problems({"health": {"listen": address}})
    assert told.startswith("health.listen: ")
    assert "host:port" in told or "brackets" in told


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("cilium: {socket: /a}\nlog: {level: debug}\n")
    config = load_config(
        file, {"CILIARY_CILIUM__SOCKET": "/b", "CILIARY_HUBBLE__UNIX_SOCKET": "null", "HOME": "/"}
    )
    assert Path("/b") == config.cilium.socket
    assert config.hubble.unix_socket is None
    assert "debug" == config.log.level


def test_a_key_in_no_section_is_overridden_by_its_name() -> None:
    assert "cilium" == parse_config({}, {"CILIARY_SOURCE": "cilium"}).source
    with pytest.raises(ConfigError, match=r"source \(from CILIARY_SOURCE\)"):
        parse_config({}, {"CILIARY_SOURCE": "pcap"})


def test_a_mistake_of_the_environment_names_its_variable() -> None:
    told = problems({}, {"CILIARY_LOG__LEVEL": "loud", "CILIARY_LOG__NONSENSE": "1"})
    assert "(from CILIARY_LOG__LEVEL)" in told[0]
    assert "(from CILIARY_LOG__NONSENSE)" in told[1]


def test_a_variable_with_one_underscore_is_told_how_it_is_written() -> None:
    (told,) = problems({}, {"CILIARY_HUBBLE_UNIX_SOCKET": "/x"})
    assert told.endswith(": CILIARY_HUBBLE__UNIX_SOCKET")


def test_the_variables_that_kubernetes_makes_for_services_are_not_ours() -> None:
    services = {"CILIARY_PORT": "tcp://10.0.0.1:80", "CILIARY_METRICS_SERVICE_HOST": "10.0.0.1"}
    assert Config() == parse_config({}, services)


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "a: [", "a: !!python/object:os.system x"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(file, {})


@pytest.mark.parametrize("flows", [-3, 0, 1 << 29, "many", True, 1.5, None, [1]])
def test_a_number_of_flows_that_is_none_is_one_line(flows: object) -> None:
    (told,) = problems({"history": {"flows": flows}})
    assert told.startswith(
        f"history.flows: {json.dumps(flows)} is neither auto nor a number from 1 to "
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"log": 5}, "log: 5 is not a section of keys"),
        ({"node": {"name": 7}}, "node.name: 7 is not a text; put it in quotes"),
        ({"cilium": {"release": 1.18}}, "cilium.release: 1.18 is not a text; put it in quotes"),
        ({"hubble": {"insecure": "perhaps"}}, 'hubble.insecure: "perhaps" is not true or false'),
        (
            {"native_probes": {"quiet_drops": ["TTL@"]}},
            (
                "native_probes.quiet_drops: 'TTL@' is no rule on drops; write REASON or "
                "REASON@FUNCTION"
            ),
        ),
        ({"cilium": {"socket": 7}}, "cilium.socket: 7 is not a path; put it in quotes"),
        (
            {"metrics": {"hubble": {"enabled": "dns"}}},
            'metrics.hubble.enabled: "dns" is not a list, such as [dns, drop]',
        ),
    ],
)
def test_a_wrong_type_is_told_in_plain_words(values: dict[str, object], line: str) -> None:
    assert [line] == problems(values)


def test_an_empty_section_is_the_defaults() -> None:
    assert Config() == parse_config({"log": None, "metrics": {"agent": None}}, {})
    assert "debug" == parse_config({"log": None}, {"CILIARY_LOG__LEVEL": "debug"}).log.level


@pytest.mark.parametrize(
    "text", ["log: {level: info}\nlog: {level: debug}\n", "log:\n  level: info\n  level: debug\n"]
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"the key '(log|level)' is there twice in line [23]"):
        load_config(file, {})


@pytest.mark.parametrize("command", ["check", "show"])
def test_the_file_may_be_named_by_the_environment(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("nonsense: 1")
    monkeypatch.setenv("CILIARY_CONFIG", str(file))
    done = CliRunner().invoke(root, ["config", command])
    assert isinstance(done.exception, ConfigError)
    assert "nonsense" in str(done.exception)


def test_an_identity_file_is_checked_when_it_is_there(tmp_path: Path) -> None:
    file, identity = tmp_path / "config.yaml", tmp_path / "world.json"
    file.write_text(f"identity: {{file: {identity}}}")
    done = CliRunner().invoke(root, ["config", "check", str(file)])
    assert 0 == done.exit_code
    assert f"{identity} is not there" in done.output
    identity.write_text('{"ips": [{"cidr": "x"}]}')
    done = CliRunner().invoke(root, ["config", "check", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert "$.ips[0]" in str(done.exception)
    identity.write_text("{}")
    done = CliRunner().invoke(root, ["config", "check", str(file)])
    assert "the configuration is right\n" == done.output


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("# nothing\n")
    assert Config() == load_config(file, {})


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    shown = CliRunner().invoke(root, ["config", "show"]).output
    file = tmp_path / "config.yaml"
    file.write_text(shown)
    assert Config() == load_config(file, {})


def test_the_schema_documents_every_key() -> None:
    schema = json.loads(CliRunner().invoke(root, ["config", "schema"]).output)
    for name, section in schema["$defs"].items():
        for key, value in section["properties"].items():
            assert "description" in value or "$ref" in value, f"{name}.{key}"


def test_a_wrong_configuration_ends_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("nonsense: 1")
    with pytest.raises(SystemExit) as ended:
        main(["config", "check", str(file)])
    assert 2 == ended.value.code
    assert "nonsense: there is no such key" in capsys.readouterr().err


def test_two_probes_of_ones_own_with_one_name_are_a_mistake() -> None:
    probe = {"name": "mine", "source": "/mine.c", "ring": "mine",
             "record": {"source": "ip", "destination": "ip"}}  # fmt: skip
    assert (
        "mine"
        == parse_config({"native_probes": {"custom": [probe]}}, {}).native_probes.custom[0].name
    )
    (told,) = problems({"native_probes": {"custom": [probe, probe]}})
    assert "two probes have one name" in told
