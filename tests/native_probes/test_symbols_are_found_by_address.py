"""A table as the kernel writes it: address, kind, name, and the module of some."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_probes.kernel_symbols import KernelSymbols

TABLE = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81b00100 t udp_rcv
ffffffff81b00180 W tcp_v4_rcv
ffffffff81b00190 D tcp_table
ffffffffc0201000 t nft_do_chain\t[nf_tables]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "kallsyms").write_text(TABLE)
    return tmp_path / "kallsyms"


def test_an_address_has_the_name_of_the_function_that_it_lies_in(path: Path) -> None:
    symbols = KernelSymbols(path)
    wanted = {
        0xFFFFFFFF81B00100: b"udp_rcv",
        0xFFFFFFFF81B0017F: b"udp_rcv",
        0xFFFFFFFF81B001A0: b"tcp_v4_rcv",  # data is no code
        0xFFFFFFFFC0201234: b"nft_do_chain",
        0x1000: b"",
    }
    assert wanted == symbols.names(wanted)


def test_what_was_asked_before_is_not_looked_for_again(path: Path) -> None:
    symbols = KernelSymbols(path)
    symbols.names([0xFFFFFFFF81B00100])
    path.unlink()
    assert {0xFFFFFFFF81B00100: b"udp_rcv"} == symbols.names([0xFFFFFFFF81B00100])
    assert {0xFFFFFFFF81B00180: b""} == symbols.names([0xFFFFFFFF81B00180])


def test_addresses_that_the_kernel_hides_have_no_names(tmp_path: Path) -> None:
    hidden = tmp_path / "kallsyms"
    hidden.write_text("0000000000000000 T _text\n0000000000000000 t udp_rcv\n")
    assert {0xFFFFFFFF81B00100: b""} == KernelSymbols(hidden).names([0xFFFFFFFF81B00100])
