"""A control plane for the whole run, and what several tests need around it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import yaml

from bridge.event_log import EventLog
from bridge.kubernetes.credentials import Access, in_cluster
from bridge.kubernetes.source import KubernetesSource
from bridge.rising_clock import RisingClock
from tests.bridge.kubernetes.remembering_sink import RememberingSink
from tests.cluster.control_plane import Client, ControlPlane, binary
from tests.programs import absent, program

RBAC = Path(__file__).resolve().parents[2] / "docs" / "reference" / "rbac.yaml"
_PATIENCE = 60.0


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A kube-apiserver on an etcd, with the account and the rights of docs/reference/rbac.yaml."""
    kubehost = binary()
    if not kubehost.is_file():
        absent(f"{kubehost} is missing: run tests/cluster/kube/build .cache/kube (needs Go)")
    program("openssl", "openssl")
    plane = ControlPlane(kubehost, tmp_path_factory.mktemp("kube"))
    try:
        plane.start()
        with plane.client() as client:
            for manifest in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
                client.do("POST", path_of(manifest), manifest)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def client(control_plane: ControlPlane) -> Iterator[Client]:
    """The administrator."""
    with control_plane.client() as made:
        yield made


def path_of(manifest: dict[str, object]) -> str:
    """Where an object of docs/reference/rbac.yaml is made."""
    if manifest["kind"] == "ServiceAccount":
        return "/api/v1/namespaces/kube-system/serviceaccounts"
    kind = str(manifest["kind"]).lower()
    return f"/apis/rbac.authorization.k8s.io/v1/{kind}s"


class Account:
    """The mounted files of a pod that runs as the agent's service account."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self.folder = folder
        self._secrets = 0
        (folder / "ca.crt").write_bytes(plane.authority.read_bytes())
        self.secret = self.rotate()

    def rotate(self) -> str:
        """A new token; it is good while the secret whose name is returned exists."""
        self._secrets += 1
        name = f"bound-{self.folder.name.lower().replace('_', '-')}-{self._secrets}"
        secret = {"metadata": {"name": name}}
        with self._plane.client() as client:
            client.do("POST", "/api/v1/namespaces/kube-system/secrets", secret)
            answer = client.do(
                "POST",
                "/api/v1/namespaces/kube-system/serviceaccounts/ciliary/token",
                {"spec": {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": name}}},
            )
        (self.folder / "token").write_text(answer["status"]["token"])
        self.secret = name
        return name

    def token(self) -> str:
        """The one of now."""
        return (self.folder / "token").read_text()

    def access(self, port: int | None = None) -> Access:
        """As in a cluster; ``port``: by way of a proxy."""
        where = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(port or self._plane.port),
        }
        return in_cluster(self.folder, where)


@pytest.fixture
def account(control_plane: ControlPlane, tmp_path: Path) -> Account:
    """The agent's service account, with no other rights than it needs."""
    return Account(control_plane, tmp_path)


@dataclass(slots=True)
class Watched:
    """A source that runs, and what it told."""

    source: KubernetesSource
    sink: RememberingSink
    log: list[str]

    async def until(self, condition: Callable[[], object]) -> None:
        """Poll for it."""
        with trio.fail_after(_PATIENCE):
            while not condition():
                await trio.sleep(0.01)

    async def current(self) -> None:
        """Until names are current."""
        await self.until(lambda: not self.source.complaint())


@contextlib.asynccontextmanager
async def watching(
    access: Access,
    *,
    node: str = "",
    clock: Callable[[], int] | None = None,
    until_ready: bool = True,
) -> AsyncIterator[Watched]:
    """A source against a real server; discovery looks every second."""
    log: list[str] = []
    sink = RememberingSink()
    source = KubernetesSource(
        sink,
        EventLog(write=log.append),
        agent="ciliary-test",
        node=node,
        clock=clock or RisingClock(),
        discovery=1.0,
    )
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, access, ready.set)
        with trio.fail_after(_PATIENCE):
            if until_ready:
                await ready.wait()
        yield Watched(source, sink, log)
        nursery.cancel_scope.cancel()
