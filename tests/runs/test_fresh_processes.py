"""What a fresh process holds of the one that starts it, and what it has imported already."""

import multiprocessing
import sys

import torch
from process_state import Seen, lacking, remember, seen

from sidebench.benchmark.runs.fresh_processes import IMPORTED_ONCE, fresh_processes


def test_a_fresh_process_holds_nothing_of_this_one_or_of_another() -> None:
    remember("here")
    torch.manual_seed(12345)
    with fresh_processes("cpu").Pool(1) as pool:
        first = pool.apply(seen)
        pool.apply(remember, ("there",))
        again = pool.apply(seen)
    with fresh_processes("cpu").Pool(1) as pool:
        other = pool.apply(seen)
    assert seen() == Seen(["here"], 12345)
    assert first.words == [] and again.words == ["there"] and other.words == []
    assert 12345 not in (first.seed, other.seed)


def test_on_linux_the_libraries_are_imported_before_a_process_starts() -> None:
    with fresh_processes("cpu").Pool(1) as pool:
        assert pool.apply(lacking, (IMPORTED_ONCE,)) == [] or sys.platform != "linux"


def test_work_on_an_accelerator_is_not_forked() -> None:
    assert fresh_processes("cuda:0") is multiprocessing.get_context("spawn")
