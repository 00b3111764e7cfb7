"""Layers are priced and encoded side by side: nothing depends on how many threads there are."""

from __future__ import annotations

import threading

import pytest
import torch

from instar.ir.plugins import given
from instar.ir.threads import Beside, side_by_side, torch_threads


def test_results_come_in_the_order_of_the_items() -> None:
    started, alone = threading.Barrier(2), list[int]()

    def work(item: int) -> int:
        alone.append(torch.get_num_threads())
        if item < 2:  # the first is done only once the second has begun
            started.wait(timeout=30)
        return 10 * item

    with torch_threads(2):
        assert list(side_by_side(work, range(5))) == [0, 10, 20, 30, 40]
        assert torch.get_num_threads() == 2
    assert alone == [1] * 5, "each of them runs torch with one thread"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_is_that_of_the_first_item(threads: int) -> None:
    def work(item: int) -> int:
        if item % 2:
            raise ValueError(f"item {item}")
        return item

    with torch_threads(threads), pytest.raises(ValueError, match="item 1"):
        list(side_by_side(work, range(6)))


def test_heavy_items_start_first() -> None:
    started, both = list[int](), threading.Barrier(2)

    def work(item: int) -> int:
        started.append(item)
        if len(started) <= 2:
            both.wait(timeout=30)
        return item

    with torch_threads(2):
        assert list(side_by_side(work, [1, 5, 2, 9], float)) == [1, 5, 2, 9]
    assert sorted(started[:2]) == [5, 9]


@pytest.mark.parametrize("alone", [True, False])
def test_work_beside_is_done_in_order_and_its_error_is_raised(alone: bool) -> None:
    beside, done = Beside(alone=alone), list[int]()
    for number in range(20):
        beside(lambda number=number: done.append(number))
    beside.finish()
    assert done == list(range(20))

    def fail() -> None:
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"):
        beside(fail)
        beside.finish()
    beside.close()


def test_what_was_given_to_the_call_is_known_in_every_thread() -> None:
    from instar.passes.registry import PASSES

    class Mine:
        """Stands for a user's pass."""

        name = "mine"

    with torch_threads(2), given({"pass": {"mine": Mine}}):
        assert list(side_by_side(lambda _: "mine" in PASSES, range(4))) == [True] * 4
