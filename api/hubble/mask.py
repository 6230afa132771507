"""Field masks: the part of a flow that a client asked for.

Paths are proto field names joined by dots, checked against ``flow.Flow``. Applying a mask
to the parts of a message and joining the results gives the same as applying it to the
whole, so that masked flows too can be composed from cached fragments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from api.v1.flow import flow_pb2
from parsers.errors import UsageError

Tree: TypeAlias = "dict[str, Tree]"


class FieldMask:
    """A compiled mask; without paths it lets everything pass."""

    __slots__ = ("_tree", "paths", "present")

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self.paths = tuple(sorted(set(paths)))
        self._tree: Tree = {}
        for path in self.paths:
            _check(path)
            _add(self._tree, path.split("."))
        self.present = flow_pb2.Flow()
        """What is selected within a message keeps that message, as Hubble has it."""
        _make_present(self.present, self._tree)

    def whole(self, field: str) -> bool | None:
        """True: all of this field of ``Flow`` passes; False: nothing; None: some of it."""
        if not self._tree:
            return True
        below = self._tree.get(field)
        return False if below is None else (True if not below else None)

    def strip(self, flow: flow_pb2.Flow) -> flow_pb2.Flow:
        """Take out of ``flow`` in place what the mask does not let pass; returns it."""
        if self._tree:
            _strip(flow, self._tree)
        return flow

    def apply(self, flow: flow_pb2.Flow) -> flow_pb2.Flow:
        """``strip`` and then add what is ``present`` in every masked flow."""
        self.strip(flow).MergeFrom(self.present)
        return flow


def _check(path: str) -> None:
    descriptor: Descriptor | None = flow_pb2.Flow.DESCRIPTOR
    for name in path.split("."):
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            raise UsageError(f'invalid fieldmask: "{path}" is no path in flow.Flow')
        single = field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated
        descriptor = field.message_type if single else None


def _add(tree: Tree, names: list[str]) -> None:
    for depth, name in enumerate(names):
        below = tree.get(name)
        if below is not None and not below:
            return  # a shorter path selects the whole already
        if depth == len(names) - 1:
            tree[name] = {}
            return
        tree = tree.setdefault(name, {}) if below is None else below


def _strip(message: Message, tree: Tree) -> None:
    for field, value in message.ListFields():
        below = tree.get(field.name)
        if below is None:
            message.ClearField(field.name)
        elif below:
            _strip(value, below)


def _make_present(message: Message, tree: Tree) -> None:
    for name, below in tree.items():
        if below and message.DESCRIPTOR.fields_by_name[name].containing_oneof is None:
            getattr(message, name).SetInParent()
            _make_present(getattr(message, name), below)
