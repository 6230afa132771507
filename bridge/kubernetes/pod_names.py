"""Names of pods alone."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.kubernetes.objects import Key, Object, Pod
from parsers.directory import AddressRecord, Directory


class PodNames:
    """Tells a ``Directory`` which pod has which address."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._addresses: dict[Key, tuple[str, ...]] = {}

    def apply(
        self, kind: type[Object], changed: Sequence[Object], removed: Sequence[Key], at: int
    ) -> None:
        """See ``Sink``."""
        if kind is not Pod:
            return
        for key in removed:
            for address in self._addresses.pop(key, ()):
                self._directory.set_address(address, None, since=at)
        for pod in changed:
            if not isinstance(pod, Pod) or pod.spec.host_network:
                continue
            addresses = tuple(ip.ip for ip in pod.status.pod_ips or () if ip.ip)
            if self._addresses.get(pod.key) == addresses:
                continue
            self._addresses[pod.key] = addresses
            for address in addresses:
                record = AddressRecord(0, pod.metadata.namespace, pod.metadata.name)
                self._directory.set_address(address, record, since=at)

    def synced(self) -> None:
        """See ``Sink``."""
        self._directory.synced = True
        self._directory.generation += 1
