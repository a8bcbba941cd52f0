"""A folder to call commands in."""

from collections.abc import Callable
from pathlib import Path

import pytest

ATTACKS = """
from sidebench import Attack, Generated


class Mine(Attack):
    name, title, paper, access = "mine", "mine", "none", "samples"

    def generate(self, model, state, candidates):
        raise ValueError("out of luck")


class Other:
    pass
"""


CONFIGS = {
    "words.yaml": "run digits",
    "misspelt.yaml": "pair: digits\ncandidate: 4",
    "many.yaml": "pair: digits\ncandidates: many",
    "twice.yaml": "pair: digits\npair: digits",
    "few.yaml": "pair: digits\nattack: {carlini-cond: {clusters: 9}, carlini-uncond: }",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pair_file: Callable[..., Path]) -> Path:
    """Work in a folder with the pair file tiny.yaml, files of options, one of attacks and a regular file."""
    make_pair_file(tmp_path)
    (tmp_path / "attacks.py").write_text(ATTACKS, encoding="utf-8")
    for name, text in CONFIGS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "regular").write_text("a file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
