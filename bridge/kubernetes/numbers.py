"""Security identities of pods, and the labels that their numbers stand for.

Cilium's number where it has told of one, or ours, which follows from the labels that count of the
pod and of its namespace. Labels of a number that nobody has any more are kept for a while, as
flows may still have it.
"""

from __future__ import annotations

from collections import OrderedDict

from bridge.kubernetes.endpoints import EndpointFacts, identity_labels, number_of
from bridge.kubernetes.identities import KEPT_UNUSED, OwnIdentities
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.objects import CiliumIdentity, Key, Namespace
from bridge.kubernetes.pods import PodFacts, texts_of
from parsers.directory import Directory
from parsers.reserved import RESERVED

_OF_NAMESPACE = "io.cilium.k8s.namespace.labels."


class SecurityNumbers:
    """Tells ``directory`` which labels a number stands for; ``cluster`` is ours by name."""

    def __init__(self, directory: Directory, labels: LabelFilter, cluster: str) -> None:
        self._directory = directory
        self._filter = labels
        self._cluster = cluster
        self._own = OwnIdentities()
        self._labels: dict[int, tuple[str, ...]] = {}
        self._deleted: OrderedDict[int, None] = OrderedDict()  # Cilium's that keep their labels
        self._namespaces: dict[str, tuple[str, ...]] = {}
        directory.set_identities(RESERVED)

    def namespace(self, namespace: Namespace) -> bool:
        """A namespace is new or different; whether that is so for the labels that count."""
        name = namespace.metadata.name
        labels = texts_of(namespace.metadata.labels, self._filter, _OF_NAMESPACE)
        if self._namespaces.get(name) == labels:
            return False
        self._namespaces[name] = labels
        return True

    def namespace_gone(self, key: Key) -> None:
        """A namespace is no more; its pods are gone before it."""
        self._namespaces.pop(key[1], None)

    def identity(self, identity: CiliumIdentity) -> None:
        """Cilium has a number; its labels never change."""
        number, labels = identity_labels(identity)
        if number:
            self._deleted.pop(number, None)
            self._label(number, labels)

    def identity_gone(self, key: Key) -> None:
        """Cilium deleted a number."""
        if (number := number_of(key[1])) in self._labels:
            self._deleted[number] = None
            if len(self._deleted) > KEPT_UNUSED:
                self._unlabel(self._deleted.popitem(last=False)[0])

    def labels_of(self, number: int) -> tuple[str, ...]:
        """What a number stands for, as far as is known."""
        return self._labels.get(number) or RESERVED.get(number, ())

    def told(self, facts: EndpointFacts) -> int:
        """The number that Cilium says a pod has."""
        if facts.labels and facts.identity not in self._labels:
            self._label(facts.identity, facts.labels)
        return facts.identity

    def own(self, namespace: str, facts: PodFacts, before: int) -> int:
        """The number by a pod's labels, which had ``before`` (0: none) of ours."""
        labels = self._security_labels(namespace, facts)
        number = self._own.take(labels)
        self.give_back(before)
        if number not in self._labels:
            self._label(number, labels)
        return number

    def give_back(self, own: int) -> None:
        """One pod less has a number of ours; 0: none."""
        if own and (unused := self._own.give_back(own)):
            self._unlabel(unused)

    def _label(self, number: int, labels: tuple[str, ...]) -> None:
        if number in RESERVED:  # of the whole world, say; an object cannot call it otherwise
            return
        self._labels[number] = labels
        self._directory.set_identities({number: labels})

    def _unlabel(self, number: int) -> None:
        self._labels.pop(number, None)
        self._directory.forget_identity(number)

    def _security_labels(self, namespace: str, facts: PodFacts) -> tuple[str, ...]:
        of_namespace = self._namespaces.get(namespace)
        if of_namespace is None:  # every namespace has this label
            known = {"kubernetes.io/metadata.name": namespace}
            of_namespace = texts_of(known, self._filter, _OF_NAMESPACE)
        others = {
            "io.kubernetes.pod.namespace": namespace,
            "io.cilium.k8s.policy.cluster": self._cluster,
        }
        if facts.service_account:
            others["io.cilium.k8s.policy.serviceaccount"] = facts.service_account
        return tuple(sorted({*facts.labels, *of_namespace, *texts_of(others, self._filter)}))
