"""A real etcd and kube-apiserver on free ports of the loopback, to be killed and restarted."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any, Self

_PATIENCE = 120.0  # s; ready in 3 to 6 where nothing else runs
_ADMIN = "admin-token"

Json = dict[str, Any]


class ControlPlane:
    """State, logs and keys are in ``folder``; ``binary`` is what tests/cluster/kube makes."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._etcd_port, peer, self.port = free_port(), free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run(
            ["openssl", "genrsa", "-out", folder / "sa.key", "2048"],
            check=True,
            capture_output=True,
        )
        (folder / "tokens.csv").write_text(f'{_ADMIN},admin,admin,"system:masters"\n')
        etcd, raft = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer}"
        self._etcd = [
            "etcd",
            f"--data-dir={folder}/etcd",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={raft}",
            f"--initial-advertise-peer-urls={raft}",
            f"--initial-cluster=default={raft}",
        ]
        self._apiserver = [
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={folder}/certs",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # nobody makes accounts here
            "--service-cluster-ip-range=10.96.0.0/16",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=2000",
            "--endpoint-reconciler-type=none",
        ]

    @property
    def token(self) -> str:
        """The administrator's."""
        return _ADMIN

    @property
    def authority(self) -> Path:
        """The certificate that the server made for itself."""
        return self._folder / "certs" / "apiserver.crt"

    def kubeconfig(self, name: str = "admin", token: str = _ADMIN, port: int | None = None) -> Path:
        """A kubeconfig for the holder of ``token``; JSON is YAML."""
        path = self._folder / f"{name}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{port or self.port}",
            "certificate-authority": str(self.authority),
        }
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        }
        path.write_text(json.dumps(told))
        return path

    def start(self) -> None:
        """Both, until the server says that it is ready."""
        self._start("etcd", self._etcd)
        self.start_server()

    def start_server(self) -> None:
        """The API server alone, until it says that it is ready."""
        self._start("apiserver", self._apiserver)
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._running["apiserver"].poll() is None:
            with contextlib.suppress(OSError), self.client() as client:
                if client.ask("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.1)
        tail = (self._folder / "apiserver.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the API server is not ready:\n{tail}")

    def kill_server(self) -> None:
        """As a power cut would."""
        self._end("apiserver", signal.SIGKILL)

    def stop(self) -> None:
        """All that was started."""
        for name in list(self._running):
            self._end(name, signal.SIGKILL)

    def compact(self) -> None:
        """Make etcd forget all revisions before now."""
        revision = self._etcd_ask("kv/range", {"key": base64.b64encode(b"x").decode()})["header"][
            "revision"
        ]
        self._etcd_ask("kv/compaction", {"revision": revision, "physical": True})

    def client(self) -> Client:
        """A connection as the administrator."""
        return Client(self.port, self.authority, _ADMIN)

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [self._binary, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._running.pop(name)
        process.send_signal(how)
        process.wait(timeout=30)

    def _etcd_ask(self, path: str, body: Json) -> Json:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=30)
        connection.request("POST", f"/v3/{path}", json.dumps(body))
        answer: Json = json.loads(connection.getresponse().read())
        connection.close()
        return answer


class Client:
    """Requests to an API server on one connection, for one thread."""

    def __init__(self, port: int, authority: Path, token: str) -> None:
        trust = ssl.create_default_context(cafile=str(authority))
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=60)
        self._token = token

    def ask(self, verb: str, path: str, body: Json | None = None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        text = json.dumps(body) if body is not None else None
        self._connection.request(verb, path, text, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def do(self, verb: str, path: str, body: Json | None = None, *, unless: int = 0) -> Json:
        """The answer to a request that must not fail, unless with a status by which it is done."""
        status, text = self.ask(verb, path, body)
        if status not in {200, 201, 202, unless}:
            raise RuntimeError(f"{verb} {path}: {status} {text[:500]!r}")
        answer: Json = json.loads(text)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binary() -> Path:
    """Where tests/cluster/kube/build puts it, or ``CILIARY_KUBEHOST``."""
    default = Path(__file__).resolve().parents[2] / ".cache" / "kube" / "kubehost"
    return Path(os.environ.get("CILIARY_KUBEHOST", default))
