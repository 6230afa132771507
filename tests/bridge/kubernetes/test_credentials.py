"""How an agent comes by its right to ask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from bridge.http_client import ServerAwayError
from bridge.kubernetes.credentials import from_kubeconfig, in_cluster, is_in_cluster
from parsers.errors import UsageError

_POD = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("first\n")
    return tmp_path


def kubeconfig(
    folder: Path,
    user: Mapping[str, object],
    server: str = "https://h:6443/prefix/",
    **others: object,
) -> Path:
    trustme.CA().cert_pem.write_to_path(folder / "ca.crt")
    path = folder / "config"
    cluster = {"server": server, "certificate-authority": str(folder / "ca.crt"), **others}
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(told))
    return path


async def test_a_pod_reads_its_token_for_each_request(account: Path) -> None:
    access = in_cluster(account, _POD)
    assert "[fd00::1]:6443" == access.address
    assert "Bearer first" == await access.authorization(False)
    (account / "token").write_text("second")
    assert "Bearer second" == await access.authorization(False)


@pytest.mark.parametrize("token", ["zz\ntop", "zz\u00e9"])
async def test_a_token_that_no_header_takes_is_said_and_not_shown(
    account: Path, tmp_path: Path, token: str
) -> None:
    (account / "token").write_text(token)
    with pytest.raises(UsageError, match="characters that no token has") as told:
        await in_cluster(account, _POD).authorization(False)
    assert token[:2] not in str(told.value).removeprefix(f"the token {account}")
    with pytest.raises(UsageError, match="the kubeconfig's token has characters"):
        await from_kubeconfig(kubeconfig(tmp_path, {"token": token}))


async def test_an_authority_that_is_replaced_is_trusted_by_the_next_connection(
    account: Path,
) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, _hold, 0, serving, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        _, port = listener.transport_listener.socket.getsockname()
        where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        path = kubeconfig(account, {"token": "t"}, f"https://127.0.0.1:{port}")
        _identify(serving).cert_pem.write_to_path(account / "ca.crt")
        accesses = [in_cluster(account, where), await from_kubeconfig(path)]
        for access in accesses:
            await trio.aclose_forcefully(await access.dial())
        replaced = _identify(serving)
        for access in accesses:
            with pytest.raises(ServerAwayError, match="is not trusted"):
                await access.dial()
        replaced.cert_pem.write_to_path(account / "ca.crt")
        for access in accesses:
            await trio.aclose_forcefully(await access.dial())
        nursery.cancel_scope.cancel()


def _identify(serving: ssl.SSLContext) -> trustme.CA:
    """A new authority, which from now on vouches for the server."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    return authority


async def _hold(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.receive_some(1)


def test_a_pod_without_its_account_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="automountServiceAccountToken"):
        in_cluster(tmp_path, _POD)


def test_who_is_in_no_cluster_is_told_so() -> None:
    assert not is_in_cluster({})
    with pytest.raises(UsageError, match=r"set identity\.kubernetes\.kubeconfig"):
        in_cluster(Path("/none"), {})


async def test_a_kubeconfig_gives_address_prefix_and_token(tmp_path: Path) -> None:
    access = await from_kubeconfig(kubeconfig(tmp_path, {"token": "t"}))
    assert ("h:6443", "/prefix") == (access.address, access.prefix)
    assert "Bearer t" == await access.authorization(False)


async def test_a_token_file_of_a_kubeconfig_is_read_again_when_it_was_refused(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    access = await from_kubeconfig(kubeconfig(tmp_path, {"tokenFile": str(token)}))
    token.write_text("new")
    assert "Bearer old" == await access.authorization(False)
    assert "Bearer new" == await access.authorization(True)
    assert "Bearer new" == await access.authorization(False)


def logs_in_by(program: Path) -> dict[str, Any]:
    """A kubeconfig's user."""
    command = {"command": str(program), "interactiveMode": "Never"}
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **command}}


async def test_a_program_of_a_kubeconfig_is_run_for_a_token(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "made"},
    }
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o700)
    user = logs_in_by(plugin)
    access = await from_kubeconfig(kubeconfig(tmp_path, user))
    assert "Bearer made" == await access.authorization(False)


async def test_a_program_of_a_kubeconfig_that_hangs_keeps_no_agent_from_ending(
    tmp_path: Path,
) -> None:
    plugin, begun = tmp_path / "plugin", tmp_path / "begun"
    plugin.write_text(f"#!/bin/sh\necho $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 20\n")
    plugin.chmod(0o700)
    user = logs_in_by(plugin)
    ended = trio.Event()

    async def log_in() -> None:
        try:
            await from_kubeconfig(kubeconfig(tmp_path, user))
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log_in)
        while not begun.exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
        with trio.move_on_after(5) as patience:
            patience.shield = True
            await ended.wait()
        os.kill(int(begun.read_text()), signal.SIGKILL)
    assert ended.is_set()
    assert not patience.cancelled_caught


async def test_a_program_of_a_kubeconfig_that_fails_is_no_login(tmp_path: Path) -> None:
    user = logs_in_by(tmp_path / "missing")
    with pytest.raises(UsageError, match="neither a token nor a certificate"):
        await from_kubeconfig(kubeconfig(tmp_path, user))
    access = await from_kubeconfig(kubeconfig(tmp_path, {}, "http://localhost:8001"))
    assert "" == await access.authorization(False)


async def test_a_kubeconfig_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing: no such file"):
        await from_kubeconfig(tmp_path / "missing")
    (tmp_path / "bad").write_text(": : :")
    with pytest.raises(UsageError, match="bad is not YAML"):
        await from_kubeconfig(tmp_path / "bad")
    path = kubeconfig(tmp_path, {"token": "t"})
    with pytest.raises(UsageError, match="elsewhere"):
        await from_kubeconfig(path, "elsewhere")
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(UsageError, match="certificates"):
        await from_kubeconfig(path)


@pytest.mark.parametrize("key", ["as", "as-groups", "as-uid", "as-user-extra"])
async def test_a_user_that_acts_as_another_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=f"the user's {key} cannot be followed"):
        await from_kubeconfig(kubeconfig(tmp_path, {"token": "t", key: ["somebody"]}))


@pytest.mark.parametrize("url", ["socks5://p:1080", "https://p"])
async def test_a_proxy_of_another_kind_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="only proxies by http:// are followed"):
        await from_kubeconfig(kubeconfig(tmp_path, {"token": "t"}, **{"proxy-url": url}))


async def test_the_environments_proxy_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://elsewhere:1080")
    await from_kubeconfig(kubeconfig(tmp_path, {"token": "t"}))


async def test_a_server_behind_a_proxy_is_reached_by_tls_and_by_another_name(
    tmp_path: Path,
) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA()
    authority.issue_cert("inside.test").configure_cert(serving)
    asked: list[bytes] = []

    async def echo(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"hello")

    async def proxy(stream: trio.SocketStream) -> None:
        """Plain: what it is asked for first, then bytes to and fro."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive_some(1)
        asked.append(head)
        if b"Basic dTpwQA==" not in head:
            await stream.send_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", port) as behind:
            async with trio.open_nursery() as both:
                both.start_soon(_copy, stream, behind)
                await _copy(behind, stream)
                both.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, echo, 0, serving, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        _, port = listener.transport_listener.socket.getsockname()
        (front,) = await nursery.start(partial(trio.serve_tcp, proxy, 0, host="127.0.0.1"))
        _, by = front.socket.getsockname()
        settings: dict[str, object] = {"tls-server-name": "inside.test"}
        accesses = []
        for user in ("u:p%40@", ""):
            settings["proxy-url"] = f"http://{user}127.0.0.1:{by}"
            path = kubeconfig(tmp_path, {"token": "t"}, "https://far.test:6443", **settings)
            accesses.append(await from_kubeconfig(path))
        known, stranger = accesses
        authority.cert_pem.write_to_path(tmp_path / "ca.crt")
        stream = await known.dial()
        assert b"hello" == await stream.receive_some(5)
        await trio.aclose_forcefully(stream)
        with pytest.raises(ServerAwayError, match="answered 407 to CONNECT"):
            await stranger.dial()
        nursery.cancel_scope.cancel()
    assert asked[0].startswith(b"CONNECT far.test:6443 HTTP/1.1\r\nHost: far.test:6443\r\n")


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some():
            await sink.send_all(data)
