"""Machines: what the shipped files say, what is refused, and how rates and latencies are derived."""

from __future__ import annotations

import re
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from instar.ir.errors import ConfigError
from instar.ir.machine import UNLIMITED, Machine
from instar.ir.machine_file import MACHINES, machine, machine_names

SHIPPED = ["cortex-m7-rt1170", "ethos-u55-flash", "ethos-u65-mid", "gap9-l1"]

SMALL = """
clock_hz = 1e6
[macs_per_cycle]
int8 = 4
[dma]
setup_cycles = 3
max_transfer_bytes = 100
[[fast]]
name = "near"
size_bytes = 1000
read_bytes_per_cycle = 4
write_bytes_per_cycle = 4
read_latency_cycles = 1
write_latency_cycles = 2
[slow]
name = "far"
size_bytes = "unlimited"
read_bytes_per_cycle = 1.5
write_bytes_per_cycle = 0.5
read_latency_cycles = 10
write_latency_cycles = 20
"""


def read(tmp_path: Path, text: str, given: str = "") -> Machine:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return machine(f"{path}{given}")


def test_names_of_shipped_machines() -> None:
    assert machine_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_shipped_machine_has_a_source(name: str) -> None:
    table = tomllib.loads((MACHINES / f"{name}.toml").read_text(encoding="utf-8"))
    sources = machine(name).sources
    assert "clock_hz" in sources
    for owner in ("macs_per_cycle", "dma"):
        for key, value in table[owner].items():
            assert value == "unknown" or f"{owner}.{key}" in sources
    for memory in (*table["fast"], table["slow"]):
        assert memory["name"] in sources
    assert ("channel_brick" in table) == ("channel_brick" in sources)


def test_figures_of_ethos_u65() -> None:
    u65 = machine("ethos-u65-mid")
    sram, dram = u65.fast[0], u65.slow
    assert u65.budget_bytes == 384 * 1024
    assert u65.bytes_per_cycle(dram, "read") == Fraction(12 * 128, 500)  # in flight, not the bus of 7.5
    assert u65.bytes_per_cycle(dram, "write") == Fraction(6 * 128, 250)
    assert u65.bytes_per_cycle(sram, "read") == 8
    assert u65.transfer_latency_cycles(dram, sram) == 532
    assert u65.transfer_data_cycles(1536, dram, sram) == 500
    assert u65.compute_cycles(257) == 2
    assert [u65.padded_channels(count) for count in (1, 16, 17)] == [16, 16, 32]
    assert u65.may_spill


def test_flash_is_read_only_and_the_size_of_its_sram_must_be_given() -> None:
    u55 = machine("ethos-u55-flash")
    assert not u55.may_spill
    with pytest.raises(ConfigError, match=r"expected a value of sram\.size_bytes, which its sources do not give"):
        _ = u55.budget_bytes
    assert u55.with_budget(1000).budget_bytes == 1000
    with pytest.raises(ConfigError, match=r"expected a memory that can be written, found the read-only 'flash'"):
        u55.bytes_per_cycle(u55.slow, "write")


def test_stacks_come_out_of_l1_and_setup_must_be_given() -> None:
    gap9 = machine("gap9-l1")
    assert gap9.budget_bytes == 60_000 - 3_500 - 7 * 3_400
    assert gap9.with_budget(100).budget_bytes == 100
    with pytest.raises(ConfigError, match=r"expected a value of dma\.setup_cycles.*'gap9-l1\{dma\.setup_cycles="):
        gap9.transfer_latency_cycles(gap9.slow, gap9.fast[0])
    m7 = machine("cortex-m7-rt1170")
    asked = r"expected values of dma\.setup_cycles, tcm\.read_latency_cycles, .*hyperram\.write_latency_cycles, which"
    with pytest.raises(ConfigError, match=asked):
        m7.transfer_latency_cycles(m7.slow, m7.fast[0])
    given = machine("gap9-l1{dma.setup_cycles=7}")
    assert given.transfer_latency_cycles(given.slow, given.fast[0]) == 7 + 10 + 1
    assert gap9.commands(2**17 + 1) == (2**17, 1)
    assert gap9.commands(0) == ()


def test_unknown_rates_and_energies_are_refused() -> None:
    u65 = machine("ethos-u65-mid")
    with pytest.raises(ConfigError, match=r"expected a value of macs_per_cycle\.int16"):
        u65.compute_cycles(1, "int16")
    assert u65.compute_cycles(0, "int16") == 0
    with pytest.raises(ConfigError, match=r"expected a value of dram\.read_pj_per_byte"):
        u65.energy_pj(1, 1, 1)
    priced = machine("ethos-u65-mid{dram.read_pj_per_byte=10, dram.write_pj_per_byte=20.5}")
    with pytest.raises(ConfigError, match=r"expected a value of mac_pj\.int8"):
        priced.energy_pj(1, 1, 1)
    priced = machine("ethos-u65-mid{dram.read_pj_per_byte=10, dram.write_pj_per_byte=20.5, mac_pj.int8=0.5}")
    assert priced.energy_pj(2, 2, 4) == 63.0


def test_parameters_can_be_given() -> None:
    given = machine("ethos-u65-mid{clock_hz=1e9, channel_brick=8, macs_per_cycle.int16=128, dram.size_bytes=5}")
    assert (given.clock_hz, given.channel_brick, given.compute_cycles(129, "int16")) == (1e9, 8, 2)
    assert given.slow.size_bytes == 5


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    mine = read(tmp_path, SMALL)
    near, far = mine.fast[0], mine.slow
    assert (mine.name, far.size_bytes, mine.commands(250)) == ("mine", UNLIMITED, (100, 100, 50))
    assert mine.commands(200) == (100, 100)
    assert mine.transfer_data_cycles(10, far, near) == 7
    assert mine.transfer_data_cycles(10, near, far) == 20
    assert mine.transfer_latency_cycles(near, far) == 3 + 1 + 20
    assert mine.memory("far") is far


MISTAKES = [
    ("clock_hz = 1e6", "clock_hz = 0", "clock_hz: expected a number above 0, found 0"),
    ("clock_hz = 1e6", "clock = 1e6", "expected known keys, found 'clock'; did you mean 'clock_hz'"),
    ("clock_hz = 1e6", "", "expected the key 'clock_hz', found macs_per_cycle, dma, fast, slow; add it"),
    ("clock_hz = 1e6", "clock_hz = ", "expected TOML, found"),
    (
        "clock_hz = 1e6",
        "clock_hz = 1e6\nchannel_brick = 0",
        "channel_brick: expected an integer of at least 1, found 0",
    ),
    ("clock_hz = 1e6", "clock_hz = 1e6\ndescription = 3", "description: expected text, found 3"),
    ("[dma]\nsetup_cycles = 3", "[dma]\nsetup_cycles = -3", "dma.setup_cycles: expected an integer of at least 0"),
    ("[dma]\nsetup_cycles = 3", "[dma]\noverlaps_compute = 1", "overlaps_compute: expected true or false, found 1"),
    ("int8 = 4", "int8 = true", "macs_per_cycle.int8: expected a number above 0, found True"),
    ("size_bytes = 1000", "size_bytes = 1.5", "near.size_bytes: expected an integer of at least 0 or 'unknown'"),
    ("size_bytes = 1000\n", "", "expected the key 'size_bytes'"),
    ("= 1.5", "= nan", "far.read_bytes_per_cycle: expected a number of at least 0 or 'unknown', found nan"),
    ('name = "far"', 'name = "near"', "expected memories of different names, found near, near"),
    ("[[fast]]", "[fast]", "fast: expected tables"),
    ("[slow]", "[[slow]]", "slow: expected a table"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_mistakes_in_a_file_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(tmp_path, SMALL.replace(old, new, 1))


def test_at_most_three_fast_memories(tmp_path: Path) -> None:
    start, end = SMALL.index("[[fast]]"), SMALL.index("[slow]")
    block = SMALL[start:end]
    more = "".join(block.replace("near", name) for name in "abcd")
    with pytest.raises(ConfigError, match="expected one to three fast memories, found 4"):
        read(tmp_path, SMALL[:start] + more + SMALL[end:])
    assert len(read(tmp_path, SMALL[:start] + more.replace(block.replace("near", "d"), "") + SMALL[end:]).fast) == 3


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("ethos-u65", "expected a shipped machine or a .toml file, found 'ethos-u65'; did you mean 'ethos-u65-mid'"),
        ("ethos-u65-mid{", "expected name{parameter=value,...}"),
        ("ethos-u65-mid{size}", "expected parameter=value, found 'size'"),
        ("ethos-u65-mid{sram.size_bytes=many}", "expected parameter=value, found 'sram.size_bytes=many'"),
        ("ethos-u65-mid{size=3}", "expected a parameter, found 'size'"),
        ("ethos-u65-mid{l1.size_bytes=3}", "expected a parameter of sram, dram, dma, macs_per_cycle, mac_pj"),
        ("ethos-u65-mid{sram.sizes=3}", "expected known keys, found 'sizes'; did you mean 'size_bytes'"),
        ("nowhere/mine.toml", "expected a file, found nothing"),
    ],
)
def test_wrong_spellings_are_named(spelling: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        machine(spelling)


def test_memories_have_names() -> None:
    with pytest.raises(ConfigError, match=r"expected one of its memories, found 'sran'; did you mean 'sram'"):
        machine("ethos-u65-mid").memory("sran")
