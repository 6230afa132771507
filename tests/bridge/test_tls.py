"""The agent's TCP listener with TLS: files that are wrong, missing, or changed."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
import trustme

from api.v1.observer import observer_pb2, observer_pb2_grpc
from bridge import certificates
from bridge.agent import Agent
from bridge.certificates import CertificateFiles
from bridge.config import ConfigError, Tls, parse_config
from parsers.errors import UsageError
from tests.bridge.test_agent import LOOPBACK, Place, running, until

SERVER_NAME = "node-a.default.hubble-grpc.cilium.io"


class Files:
    """Certificate files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.chain, self.key = directory / "server.crt", directory / "server.key"
        self.authority = directory / "client-ca.crt"

    def write(self, server: trustme.CA, clients: trustme.CA) -> None:
        made = server.issue_cert("*.default.hubble-grpc.cilium.io")
        self.chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(self.key)
        clients.cert_pem.write_to_path(self.authority)

    def loaded(self) -> CertificateFiles:
        tls = Tls(cert_file=self.chain, key_file=self.key, client_ca_files=(self.authority,))
        return CertificateFiles(tls, "hubble.tls")

    def section(self, place: Place) -> dict[str, Any]:
        return {
            "unix_socket": str(place.hubble),
            "listen": f"{LOOPBACK}:{place.tcp}",
            "tls": {
                "cert_file": str(self.chain),
                "key_file": str(self.key),
                "client_ca_files": [str(self.authority)],
            },
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.write(trustme.CA(), trustme.CA())
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_LOOK", 0.05)


async def ask(place: Place, server: trustme.CA, clients: trustme.CA) -> str:
    """The node's name, asked as a relay would."""
    shown = clients.issue_cert("x.hubble-relay.cilium.io")
    credentials = grpc.ssl_channel_credentials(
        server.cert_pem.bytes(), shown.private_key_pem.bytes(), shown.cert_chain_pems[0].bytes()
    )
    options = [("grpc.ssl_target_name_override", SERVER_NAME)]

    def call() -> str:
        with grpc.secure_channel(f"{LOOPBACK}:{place.tcp}", credentials, options) as channel:
            stub = observer_pb2_grpc.ObserverStub(channel)
            answer = stub.GetNodes(observer_pb2.GetNodesRequest(), timeout=20, wait_for_ready=True)
        (node,) = answer.nodes
        assert node.tls.enabled
        return str(node.tls.server_name)

    return await trio.to_thread.run_sync(call)


def complains(agent: Agent, part: str, text: str) -> Callable[[], bool]:
    return lambda: text in agent.complaints().get(part, "")


async def test_files_that_come_later_are_waited_for(place: Place, files: Files) -> None:
    for path in (files.chain, files.key, files.authority):
        path.unlink()
    agent = place.agent(hubble=files.section(place), identity={}, node={"name": "node-a"})
    async with running(agent):
        await until(
            complains(agent, "hubble certificates", f"cannot read {files.chain}: no such file")
        )
        await until(lambda: "hubble tcp" in agent.complaints())
        await until(lambda: "hubble unix socket" not in agent.complaints())
        server, clients = trustme.CA(), trustme.CA()
        files.write(server, clients)
        await until(lambda: agent.complaints().keys() == {"cilium"})
        assert await ask(place, server, clients) == SERVER_NAME


async def test_changed_files_are_used_without_a_restart_and_wrong_ones_are_not(
    place: Place, files: Files
) -> None:
    first, second, clients = trustme.CA(), trustme.CA(), trustme.CA()
    files.write(first, clients)
    agent = place.agent(hubble=files.section(place), identity={}, node={"name": "node-a"})
    async with running(agent):
        await until(lambda: agent.complaints().keys() == {"cilium"})
        assert await ask(place, first, clients) == SERVER_NAME
        good = files.key.read_bytes()
        files.key.write_bytes(b"broken")
        await until(complains(agent, "hubble certificates", "are no certificate and key"))
        assert await ask(place, first, clients) == SERVER_NAME  # with those from before
        files.key.write_bytes(good)
        await until(lambda: agent.complaints().keys() == {"cilium"})
        files.write(second, clients)
        # Half of the files may have been seen, which is complained about for a moment.
        with trio.fail_after(30):
            while True:
                try:
                    assert await ask(place, second, clients) == SERVER_NAME
                except grpc.RpcError:
                    continue
                break
        await until(lambda: agent.complaints().keys() == {"cilium"})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes()),
         "is not the key of the certificate"),
        (lambda f: f.chain.write_text("nothing"), "are no certificate and key; give both as PEM"),
        (lambda f: f.authority.write_text("nothing"), "has no certificate; give one or more"),
        (lambda f: f.authority.write_bytes(b"\xff\xfe"), "has no certificate; give one or more"),
        (lambda f: f.authority.unlink(), "client-ca.crt: no such file or directory"),
        (lambda f: (f.key.unlink(), f.key.mkdir()), "server.key: is a directory"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_files_is_one_sentence(
    spoil: Callable[[Files], object], sentence: str, files: Files
) -> None:
    spoil(files)
    with pytest.raises(UsageError) as caught:
        await files.loaded().keep(lambda: None)
    assert sentence in str(caught.value)
    assert "hubble.tls" in str(caught.value)


async def test_a_key_with_a_password_is_told_and_not_asked_for(files: Files) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(UsageError, match="is encrypted; give the key without a password"):
        await files.loaded().keep(lambda: None)


def test_the_agent_speaks_tls_1_3_and_http_2_and_nothing_older(
    place: Place, files: Files, tmp_path: Path
) -> None:
    server = trustme.CA()
    files.write(server, trustme.CA())
    hubble = files.section(place)
    del hubble["tls"]["client_ca_files"]
    config = tmp_path / "agent.yaml"
    config.write_text(json.dumps({**place.sections(), "hubble": hubble}))

    def shake_hands(newest: ssl.TLSVersion) -> tuple[str | None, str | None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        context.maximum_version = newest
        with socket.create_connection((LOOPBACK, place.tcp), timeout=20) as plain:
            with context.wrap_socket(plain, server_hostname=SERVER_NAME) as secure:
                return secure.version(), secure.selected_alpn_protocol()

    command = [sys.executable, "-m", "bridge", "agent", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    found = shake_hands(ssl.TLSVersion.TLSv1_3)
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                else:
                    break
            assert found == ("TLSv1.3", "h2")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shake_hands(ssl.TLSVersion.TLSv1_2)
            assert shake_hands(ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("hubble", "problem"),
    [
        ({"listen": ":1", "tls": {"cert_file": "/a"}}, "hubble.tls: cert_file and key_file belong"),
        ({"listen": ":1", "tls": {"key_file": "/a"}}, "hubble.tls: cert_file and key_file belong"),
        (
            {"listen": ":1", "insecure": True, "tls": {"client_ca_files": ["/a"]}},
            "hubble.tls: client_ca_files need a cert_file",
        ),
        ({"tls": {"cert_file": "/a", "key_file": "/b"}}, "hubble: tls is for TCP; set listen"),
    ],
)
def test_half_a_configuration_is_refused(hubble: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"hubble": hubble}, {})
    assert caught.value.problems[0].startswith(problem)


def test_with_tls_all_interfaces_need_no_further_decision() -> None:
    tls = {"cert_file": "/a", "key_file": "/b"}
    config = parse_config({"hubble": {"listen": ":4244", "tls": tls}}, {})
    assert config.hubble.has_tls


async def test_metrics_are_scraped_by_mtls_and_by_nobody_else(place: Place, files: Files) -> None:
    server, clients = trustme.CA(), trustme.CA()
    made = server.issue_cert("metrics.example")
    files.chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(files.key)
    clients.cert_pem.write_to_path(files.authority)
    tls = files.section(place)["tls"]
    listen = f"{LOOPBACK}:{place.metrics}"
    agent = place.agent(identity={}, metrics={"hubble": {"listen": listen, "tls": tls}})

    def scrape(client: trustme.CA | None, version: ssl.TLSVersion | None = None) -> bytes:
        context = ssl.create_default_context(cadata=server.cert_pem.bytes().decode())
        if client is not None:
            client.issue_cert("prometheus").configure_cert(context)
        if version is not None:
            context.maximum_version = version
        with (
            socket.create_connection((LOOPBACK, place.metrics), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="metrics.example") as wrapped,
        ):
            wrapped.sendall(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            answer = b""
            while chunk := wrapped.recv(65536):
                answer += chunk
        return answer

    async with running(agent):
        await until(lambda: agent.complaints().keys() == {"cilium"})
        text = await trio.to_thread.run_sync(scrape, clients)
        assert text.startswith(b"HTTP/1.1 200")
        assert b"hubble_lost_events_total" in text
        for refused in ((None, None), (trustme.CA(), None), (clients, ssl.TLSVersion.TLSv1_2)):
            # Under TLS 1.3 a client learns that it was refused when it reads, or by the end.
            with suppress(ssl.SSLError, ConnectionError):
                assert await trio.to_thread.run_sync(scrape, *refused) == b""
        again = await trio.to_thread.run_sync(scrape, clients)
        assert again.startswith(b"HTTP/1.1 200")
