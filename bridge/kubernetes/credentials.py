"""How to reach the API server, and what to say who we are.

In a cluster that is three files and two variables, which take no library. A kubeconfig may
log in in a dozen ways (certificates, tokens, plugins that are run), which the
``kubernetes`` package knows; it takes 0.4 s and 38 MiB, so it is imported only when there
is a kubeconfig, in a thread, and nowhere else.

Credentials are rotated: a cluster's token is read from its file for each request (the kubelet
replaces it every hour or so), a kubeconfig's is asked for again after the server refused it.
Certificates are read for each connection.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

import trio
import yaml

from bridge.http_client import Proxy, authority, open_stream
from bridge.os_errors import reason_of
from parsers.errors import UsageError

_NOT_FOLLOWED: Final = frozenset({"as", "as-groups", "as-uid", "as-user-extra"})
"""Keys of a user by which it acts as somebody else, which the ``kubernetes`` package ignores."""

Authorization: TypeAlias = Callable[[bool], Awaitable[str]]
"""The header's value, empty for none; true asks for a new one, as the last was refused."""


Dial: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True)
class Access:
    """An API server as we may use it; ``prefix`` comes before each path."""

    address: str  # as the Host header has it
    dial: Dial
    authorization: Authorization
    prefix: str = ""


def is_in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a pod that may know its API server."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST"))


def in_cluster(account: Path, environment: Mapping[str, str] = os.environ) -> Access:
    """By the pod's service account. ``UsageError`` when that is not mounted."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise UsageError(
            "not in a cluster, as KUBERNETES_SERVICE_HOST is not set; "
            "set identity.kubernetes.kubeconfig"
        )
    trusted = account / "ca.crt"
    _trust_in(trusted)

    async def dial() -> trio.abc.Stream:
        return await open_stream(host, int(port), _trust_in(trusted), host)

    async def authorization(_: bool) -> str:
        return f"Bearer {_token(account / 'token')}"

    return Access(authority(host, int(port)), dial, authorization)


async def from_kubeconfig(path: Path, context: str = "") -> Access:
    """By a kubeconfig. ``UsageError`` when it cannot be used."""
    try:
        configuration = await _loaded(path, context)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason_of(error)}") from None
    server = urlsplit(configuration.host)
    if server.hostname is None:
        raise UsageError(f"{path}: the server '{configuration.host}' is not a url")
    secure = server.scheme == "https"
    if secure:
        _tls_of(configuration)
    proxy = _proxy_of(configuration.proxy)
    current = [configuration]
    _header(configuration)

    async def authorization(renew: bool) -> str:
        if renew:
            current[0] = await _loaded(path, context)
        return _header(current[0])

    host, port = server.hostname, server.port or (443 if secure else 80)
    name = configuration.tls_server_name or host

    async def dial() -> trio.abc.Stream:
        tls = _tls_of(current[0]) if secure else None
        return await open_stream(host, port, tls, name, proxy)

    return Access(authority(host, port), dial, authorization, server.path.rstrip("/"))


def _proxy_of(url: str) -> Proxy | None:
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise UsageError(
            f"the kubeconfig's proxy-url has the scheme '{parts.scheme}'; only proxies by "
            "http:// are followed"
        )
    said = ":".join(unquote(part) for part in (parts.username, parts.password) if part is not None)
    basic = f"Basic {b64encode(said.encode()).decode()}" if said else ""
    return Proxy(parts.hostname, parts.port or 80, basic)


def _trust_in(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"cannot use {file}: {error}; set automountServiceAccountToken: true"
        ) from None


def _token(file: Path) -> str:
    try:
        return _sendable(file.read_text(encoding="latin-1").strip(), f"the token {file}")
    except OSError as error:
        raise UsageError(f"cannot read the token {file}: {reason_of(error)}") from None


def _sendable(text: str, name: str) -> str:
    """A text that may be in a header; the complaint about another one does not show it."""
    if not (text.isascii() and text.isprintable()):
        raise UsageError(f"{name} has characters that no token has")
    return text


async def _loaded(path: Path, context: str) -> Any:
    """A program that gives no answer does not keep us from ending."""
    return await trio.to_thread.run_sync(_load, path, context, abandon_on_cancel=True)


def _load(path: Path, context: str) -> Any:
    from kubernetes import client, config  # noqa: PLC0415 -- see above

    path.open("rb").close()  # the package calls a missing file an invalid one
    configuration = client.Configuration()
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path),
            context=context or None,
            client_configuration=configuration,
            persist_config=False,
        )
    except yaml.YAMLError:
        raise UsageError(f"{path} is not YAML") from None
    except config.ConfigException as error:
        raise UsageError(f"cannot use {path}: {error}") from None
    cluster, user = _sections(path, context)
    if others := sorted(_NOT_FOLLOWED & user.keys()):
        raise UsageError(
            f"{path}: the user's {', '.join(others)} cannot be followed; give the agent's own "
            "credentials"
        )
    # The package has the environment's proxy where there is none, and would ask it of everything.
    configuration.proxy = cluster.get("proxy-url") or ""
    return configuration


def _sections(path: Path, context: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The cluster and the user of a context, in a kubeconfig that was found good."""
    told = yaml.safe_load(path.read_bytes())

    def named(kind: str, name: str) -> Mapping[str, Any]:
        entries = told.get(f"{kind}s") or ()
        return next((each[kind] for each in entries if each.get("name") == name), None) or {}

    chosen = named("context", context or told.get("current-context", ""))
    return named("cluster", chosen.get("cluster", "")), named("user", chosen.get("user", ""))


def _header(configuration: Any) -> str:
    """What the login gave; empty where the TLS certificate says it all."""
    for setting in configuration.auth_settings().values():
        if setting["key"].lower() == "authorization":
            return _sendable(str(setting["value"] or ""), "the kubeconfig's token")
    if configuration.cert_file or not configuration.host.startswith("https:"):
        return ""
    # The package only logs that a plugin failed, and goes on as nobody.
    raise UsageError("the kubeconfig's login gives neither a token nor a certificate")


def _tls_of(configuration: Any) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the kubeconfig's certificates cannot be used: {error}") from None
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls
