"""The garbage collector while modules load and compilations run: paused, set aside, and given back as it was."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.ir import loading as module
from instar.ir.loading import loaded, loading


class Ring:
    """Something that only a search frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it is in every new process, and as it was afterwards."""
    enabled, thresholds = gc.isenabled(), gc.get_threshold()
    gc.enable()
    yield
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


def test_nothing_is_searched_while_modules_load() -> None:
    with loading():
        assert not gc.isenabled()
        with loading():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_the_collector_as_it_was() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError("no such module")
    assert gc.isenabled()


def test_a_collector_that_the_user_turned_off_stays_off() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()


def test_what_is_there_is_set_aside_and_given_back() -> None:
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with loaded():
        assert gc.get_freeze_count() > before
        assert gc.get_threshold() == (max(module.YOUNG_OBJECTS, thresholds[0]), *thresholds[1:])
        with loaded():
            pass
        assert gc.get_freeze_count() > before, "the outer block goes on"
    assert (gc.get_freeze_count(), gc.get_threshold()) == (before, thresholds)


def test_thresholds_of_a_user_who_wants_no_searches_stay() -> None:
    gc.set_threshold(0, 10, 10)
    with loaded():
        assert gc.get_threshold() == (0, 10, 10)
    assert gc.get_threshold() == (0, 10, 10)


def test_what_the_user_set_aside_stays_aside() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with loaded():
            pass
        assert gc.get_freeze_count() >= count - 1000, "objects may have died, but nothing was given back"
    finally:
        gc.unfreeze()


def test_garbage_of_the_block_is_found_in_it() -> None:
    with loaded():
        ring = weakref.ref(Ring())
        gc.collect()
        assert ring() is None


@pytest.mark.parametrize("grown", [True, False])
def test_old_garbage_is_looked_for_where_the_process_has_grown(monkeypatch: pytest.MonkeyPatch, grown: bool) -> None:
    gc.collect()
    searched: list[None] = []
    size = module.resident_nbytes()
    monkeypatch.setattr(module, "COLLECTOR", module.Collector())
    module.COLLECTOR.searched_at_nbytes = size - (2 * module.GROWTH_NBYTES if grown else 0)
    monkeypatch.setattr(module, "resident_nbytes", lambda: size)
    monkeypatch.setattr(module.gc, "collect", lambda: searched.append(None))
    with loaded():
        pass
    assert bool(searched) is grown


def test_memory_of_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert module.resident_nbytes() > 0
    monkeypatch.setattr(module, "STATISTICS", tmp_path / "missing")
    assert module.resident_nbytes() == sys.maxsize
