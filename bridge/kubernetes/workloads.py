"""The owner of a pod as people know it: a Deployment and not its ReplicaSet.

Hubble's rules: only pods made from a template have one, and it follows from the names alone, so
that neither ReplicaSets nor Jobs need to be watched. A bare pod has none.
"""

from __future__ import annotations

import re

from bridge.kubernetes.objects import Owner, Pod
from parsers.entities import Workload

_OF_CRON_JOB = re.compile(r"(.+)-\d{8,10}")  # minutes, or seconds, since 1970


def workload_of(pod: Pod) -> Workload | None:
    """None for a pod that nothing made from a template."""
    metadata = pod.metadata
    owner = next((o for o in metadata.owner_references or () if o.controller), None)
    if owner is None or not metadata.generate_name:
        return None
    return _known_as(owner, metadata.labels or {})


def _known_as(owner: Owner, labels: dict[str, str]) -> Workload:
    match owner.kind:
        case "ReplicaSet":
            suffix = "-" + labels.get("pod-template-hash", "")
            if len(suffix) > 1 and owner.name.endswith(suffix):
                return Workload(owner.name.removesuffix(suffix), "Deployment")
        case "ReplicationController":
            # OpenShift's, which numbers the controllers of a configuration.
            if name := labels.get("deploymentconfig"):
                return Workload(name, "DeploymentConfig")
        case "Job":
            if found := _OF_CRON_JOB.fullmatch(owner.name):
                return Workload(found[1], "CronJob")
    return Workload(owner.name, owner.kind)
