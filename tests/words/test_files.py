"""Files that are whole or not there, and nothing that keeps them open."""

import sys
from pathlib import Path

import pytest
import torch

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.files import read_state, write_state, write_text


def test_text_is_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "ä\nb\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa4\nb\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_state_that_was_read_does_not_map_its_file(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    write_state(file, AttackState({"images": torch.arange(100_000)}, {}))
    state = read_state(file)
    assert str(file) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert torch.equal(state.tensors["images"], torch.arange(100_000))
