from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bridge.unix_socket import listening_socket, make_room_for_socket
from parsers.errors import UsageError


def test_a_dead_socket_of_ours_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with listening_socket(path, mode=0o600):
        assert 0o600 == path.stat().st_mode & 0o777
    assert not path.exists()


def test_a_living_server_keeps_its_path(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(os.fspath(path))
        alive.listen()
        with pytest.raises(UsageError, match="another server is listening"):
            make_room_for_socket(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))


def test_a_path_that_somebody_else_took_over_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening_socket(path):
        path.unlink()
        path.write_text("theirs")
    assert "theirs" == path.read_text()


def test_a_file_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        make_room_for_socket(path)
    assert "precious" == path.read_text()


@pytest.mark.parametrize("place", ["/run/cilium/hubble.sock", "/var/run/cilium/x/y.sock"])
def test_nothing_is_made_in_ciliums_directory(place: str) -> None:
    with pytest.raises(UsageError, match="Cilium's own directory"):
        make_room_for_socket(Path(place))


def test_a_path_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / ("s" * 120)
    with pytest.raises(UsageError, match="path too long"), listening_socket(path):
        pass


def test_a_path_below_a_file_is_a_sentence_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"not a directory; choose a path in a directory"):
        make_room_for_socket(tmp_path / "file" / "s")


def test_a_directory_that_cannot_be_made_is_a_sentence_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"cannot make /proc/no: .*; choose a path in a directory"):
        make_room_for_socket(Path("/proc/no/s"))
