"""Where clients of Cilium 1.16 and before put the field mask: ``experimental.field_mask`` = 1."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from api.hubble.mask import mask_paths
from api.v1.observer import observer_pb2

EXPERIMENTAL, MASK = b"\xba\x3e", b"\x0a"  # tags of fields 999 and 1, both of messages


def request_of(mask: bytes, newer: tuple[str, ...] = ()) -> observer_pb2.GetFlowsRequest:
    inner = MASK + bytes([len(mask)]) + mask
    data = EXPERIMENTAL + bytes([len(inner)]) + inner
    request = observer_pb2.GetFlowsRequest.FromString(data)
    request.field_mask.paths.extend(newer)
    return request


def test_a_mask_in_the_old_place_counts() -> None:
    mask = FieldMask(paths=["time", "source.pod_name"]).SerializeToString()
    assert list(mask_paths(request_of(mask))) == ["time", "source.pod_name"]


def test_the_newer_place_goes_before() -> None:
    mask = FieldMask(paths=["time"]).SerializeToString()
    assert list(mask_paths(request_of(mask, newer=("uuid",)))) == ["uuid"]


def test_without_any_there_is_no_mask() -> None:
    assert not mask_paths(observer_pb2.GetFlowsRequest())
    assert not mask_paths(request_of(b""))


def test_what_is_no_mask_is_passed_over() -> None:
    assert not mask_paths(request_of(b"\x0a\x7f"))
