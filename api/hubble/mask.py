"""Field masks: the part of a flow that a client asked for.

Paths are proto field names joined by dots, checked against ``flow.Flow``. Applying a mask
to the parts of a message and joining the results gives the same as applying it to the
whole, so that masked flows too can be composed from cached fragments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask as FieldMaskMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.errors import UsageError

Tree: TypeAlias = "dict[str, Tree]"

_OLD_MASK, _LENGTH_DELIMITED = 1, 2  # of GetFlowsRequest.Experimental


def mask_paths(request: observer_pb2.GetFlowsRequest) -> Sequence[str]:
    """The paths a request names.

    Clients of Cilium 1.16 and before name them in field 1 of ``experimental``, which is
    reserved now; it counts where the newer field has none, as in Cilium 1.17 and 1.18.
    """
    if request.field_mask.paths or not request.HasField("experimental"):
        return request.field_mask.paths
    mask = FieldMaskMessage()
    unknown: Any = UnknownFieldSet(request.experimental)
    for field in unknown:
        if field.field_number == _OLD_MASK and field.wire_type == _LENGTH_DELIMITED:
            try:
                mask.MergeFromString(field.data)
            except DecodeError:
                return ()  # whatever it is, newer servers do not look at it
    return mask.paths


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
