"""Heavy layers are priced and encoded in processes: results, errors and plugins are those of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings

import pytest
import torch
from torch import nn

import instar
from instar.compilation import ladder, prepared
from instar.compilation.codes import CodeStore
from instar.ir import workers
from instar.ir.errors import FormatError, InstarError
from instar.ir.plugins import given
from instar.ir.processes import can_fork, in_processes
from instar.ir.threads import torch_threads


def place(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_results_come_in_the_order_of_the_items_from_other_processes() -> None:
    with torch_threads(2):
        found = list(in_processes(place, range(6), float, 1.0))
        assert torch.get_num_threads() == 2
    assert [item for item, _ in found] == list(range(6))
    assert (os.getpid() in {process for _, process in found}) != can_fork()


@pytest.mark.parametrize(("threads", "enough"), [(1, 1.0), (2, 100.0)])
def test_little_work_and_one_thread_stay_here(threads: int, enough: float) -> None:
    with torch_threads(threads):
        assert list(in_processes(place, range(3), float, enough)) == [(i, os.getpid()) for i in range(3)]


def test_the_first_error_is_that_of_the_first_item() -> None:
    def work(item: int) -> int:
        if item % 2:
            raise FormatError(f"item {item}")
        return item

    with torch_threads(2), pytest.raises(FormatError, match="item 1"):
        list(in_processes(work, range(6), float, 1.0))


def test_a_process_that_ends_early_is_an_error() -> None:
    here = os.getpid()

    def work(item: int) -> int:
        if item == 2 and os.getpid() != here:
            os._exit(1)
        if item == 2:  # threads, where processes cannot be copied
            raise InstarError("expected the processes that store weights to finish their work")
        return item

    with torch_threads(2), pytest.raises(InstarError, match="expected the processes that store weights to finish"):
        list(in_processes(work, range(4), float, 1.0))


def test_what_a_process_that_stops_answering_leaves_is_done_here(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(workers, "CHECK_S", 0.02)
    here = os.getpid()

    def work(item: int) -> tuple[int, bool]:
        if item == 2 and os.getpid() != here:
            signal.pause()
        return item, os.getpid() == here

    with torch_threads(2):
        found = list(in_processes(work, range(4), float, 1.0))
        assert torch.get_num_threads() == 2
    assert [item for item, _ in found] == [0, 1, 2, 3]
    assert found[2] == (2, True)
    said = [str(warning.message) for warning in recwarn if "took no processor time for" in str(warning.message)]
    assert len(said) == can_fork()  # threads share their locks
    if can_fork():
        assert found[3] == (3, False)  # the heaviest began first, elsewhere


def test_a_process_that_computes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHECK_S", 0.01)
    here = os.getpid()

    def work(item: int) -> bool:
        started = time.process_time()
        while time.process_time() < started + 0.5:
            pass
        return os.getpid() == here

    with torch_threads(2), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(in_processes(work, range(2), float, 1.0)) == [not can_fork()] * 2


def test_an_error_that_cannot_be_sent_is_told_in_its_words() -> None:
    class OwnError(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} and {second}")

    def work(_: int) -> None:
        raise OwnError("this", "that")

    with torch_threads(2), pytest.raises((RuntimeError, OwnError), match="this and that"):
        list(in_processes(work, range(2), lambda _: 1.0, 1.0))


def test_processes_end_when_their_results_are_given_up() -> None:
    before = multiprocessing.active_children()
    with torch_threads(2):
        found = in_processes(place, range(6), float, 1.0)
        next(found)
        del found
    assert multiprocessing.active_children() == before


def test_what_was_given_to_the_call_is_known_there() -> None:
    from instar.passes.registry import PASSES

    class Mine:
        """Stands for a user's pass."""

        name = "mine"

    with torch_threads(2), given({"pass": {"mine": Mine}}):
        assert list(in_processes(lambda _: "mine" in PASSES, range(4), lambda _: 1.0, 1.0)) == [True] * 4


def test_codes_that_another_process_chose_are_found_here() -> None:
    store = CodeStore()

    def work(item: int) -> int:
        store.put(f"layer {item}", "int4:g32", "gptq", {"codes": torch.full((4,), item)})
        return item

    with torch_threads(2):
        assert list(in_processes(work, range(3), lambda _: 1.0, 1.0)) == [0, 1, 2]
    for item in range(3):
        assert store.has(f"layer {item}", "int4:g32", "gptq")
        assert (store.get(f"layer {item}", "int4:g32", "gptq") or {})["codes"].tolist() == [item] * 4
    assert not store.has("layer 3", "int4:g32", "gptq")


@pytest.mark.parametrize("forked", [True, False], ids=["processes", "threads"])
def test_plans_and_codes_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch, *, forked: bool) -> None:
    def compiled(threads: int, batches: int) -> tuple[list[float], dict[str, bytes]]:
        torch.manual_seed(0)
        layers = [nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16)]
        data = [(torch.randn(8, 32),) for _ in range(batches)]
        with torch_threads(threads):
            plan = instar.compile(
                nn.Sequential(*layers).eval(), data[0], target="torch", budget={"size": "30%"}, calibration=data
            ).plan
        codes = {
            f"{layer}.{name}": tensor.contiguous().numpy().tobytes()
            for layer, tensors in plan.encodings.items()
            for name, tensor in tensors.items()
        }
        return [d.chosen.loss for d in plan.decisions], codes

    if forked:
        monkeypatch.setattr(ladder, "ENOUGH_TO_PRICE", 1.0)
        monkeypatch.setattr(prepared, "ENOUGH_TO_ENCODE", 1.0)
    for batches in (1, 4):  # codes of prices are final with one, drafts with several
        one, two = compiled(1, batches), compiled(2, batches)
        assert one == two
        assert one[1]
