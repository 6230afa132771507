"""What an agent may do at a real API server, and how it proves who it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import yaml

from bridge.kubernetes.credentials import from_kubeconfig
from bridge.kubernetes.objects import Pod
from bridge.kubernetes.resources import CILIUM_VERSIONS, cilium_resources, core_resources
from tests.cluster.conftest import RBAC, Account, watching
from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.cutting_proxy import proxy_of
from tests.cluster.pods import PODS, delete_pod, make_pod, pod

Json = dict[str, Any]


def test_the_documented_rights_are_those_of_what_is_watched_and_no_more(
    control_plane: ControlPlane, account: Account
) -> None:
    everything = cilium_resources(
        {CILIUM_VERSIONS[0]: [name for rule in rules_of_the_page() for name in rule["resources"]]}
    )
    wanted = {
        (resource.path.split("/")[2] if resource.path.startswith("/apis") else "", resource.name)
        for resource in (*core_resources(), *everything)
    }
    review = {"spec": {"namespace": "kube-system"}}
    with Client(control_plane.port, control_plane.authority, account.token()) as agent:
        answer = agent.do("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)
        assert 403 == agent.ask("GET", "/api/v1/secrets")[0]
    rights = {
        (group, resource, verb)
        for rule in answer["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group not in {"authorization.k8s.io", "authentication.k8s.io"}  # everybody's
    }
    assert {(*pair, verb) for pair in wanted for verb in ("list", "watch")} == rights


def rules_of_the_page() -> list[Json]:
    found = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    (role,) = [manifest for manifest in found if manifest["kind"] == "ClusterRole"]
    rules: list[Json] = role["rules"]
    return rules


async def test_a_right_that_is_missing_costs_no_names_of_pods(
    control_plane: ControlPlane, client: Client, account: Account
) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/ciliary"
    known = client.do("GET", role)
    less = [
        {**rule, "resources": [each for each in rule["resources"] if each != "nodes"]}
        for rule in known["rules"]
    ]
    client.do("PATCH", role, {"rules": less})
    try:
        with (
            trio.fail_after(60),
            Client(control_plane.port, control_plane.authority, account.token()) as agent,
        ):
            while agent.ask("GET", "/api/v1/nodes?limit=1")[0] != 403:
                await trio.sleep(0.1)
        make_pod(client, "with-a-name", "n00000", "10.99.0.1")
        async with watching(account.access(), until_ready=False) as it:
            await it.until(lambda: it.sink.synced_with_everything)
            assert "with-a-name" in it.sink.names(Pod)
            assert "names do without (nodes)" in it.source.complaint()
            assert "the agent's role needs list and watch on nodes" in it.log[-1]
            client.do("PATCH", role, {"rules": known["rules"]})
            await it.current()
            assert [False, True] == it.sink.synced_with_everything
    finally:
        client.do("PATCH", role, {"rules": known["rules"]})
        delete_pod(client, "with-a-name")


async def test_a_token_is_replaced_while_running(
    control_plane: ControlPlane, client: Client, account: Account
) -> None:
    async with (
        proxy_of(control_plane.port) as proxy,
        watching(account.access(proxy.port)) as it,
    ):
        await invalidate(control_plane, client, account, rotate=True)
        await proxy.cut()
        client.do("POST", PODS, pod("later", "n00000"))
        await it.until(lambda: "later" in it.sink.names(Pod))
        await it.current()
        # Without a good one: said, and mended when there is one again.
        await invalidate(control_plane, client, account, rotate=False)
        await proxy.cut()
        await it.until(lambda: "401" in it.source.complaint())
        account.rotate()
        await it.current()


async def invalidate(
    plane: ControlPlane, client: Client, account: Account, *, rotate: bool
) -> None:
    """Until the server, which remembers good tokens for some seconds, refuses that of now."""
    token, secret = account.token(), account.secret
    if rotate:
        account.rotate()
    client.do("DELETE", f"/api/v1/namespaces/kube-system/secrets/{secret}")
    with trio.fail_after(60), Client(plane.port, plane.authority, token) as refused:
        while refused.ask("GET", "/api/v1/pods?limit=1")[0] != 401:
            await trio.sleep(0.5)


async def test_a_kubeconfig_logs_in_over_verified_tls(
    control_plane: ControlPlane, account: Account, tmp_path: Path
) -> None:
    path = control_plane.kubeconfig("agent", account.token())
    async with watching(await from_kubeconfig(path)) as it:
        assert not it.source.complaint()
    told = json.loads(path.read_text())
    stranger = tmp_path / "stranger.crt"
    trustme.CA().cert_pem.write_to_path(stranger)
    told["clusters"][0]["cluster"]["certificate-authority"] = str(stranger)
    path.write_text(json.dumps(told))
    access = await from_kubeconfig(path)
    with pytest.raises(OSError, match="the server's certificate is not trusted"):
        await access.dial()
