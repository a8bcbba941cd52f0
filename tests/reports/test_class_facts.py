"""Listings say what plug-ins say of themselves, and import none of them."""

import sys
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark import registry
from sidebench.benchmark.reports import catalogue
from sidebench.benchmark.reports.class_facts import class_facts

PLUGIN = """
raise RuntimeError("imported")


class Base:
    name, title, access = "base", "a base", "samples"
    paper: str = "nobody 2020"


class Mine(Base):
    title = "mine"
    paper: str
    size = 3
    access = "white " "box"
    note = str(3)


class Round(Round):
    title = "round"
"""


@pytest.mark.parametrize("kind", ["attack", "defence", "measure"])
def test_the_source_says_what_the_class_says(kind: Any) -> None:
    for name in registry.names(kind):
        cls, found = registry.find(kind, name), class_facts(registry.origin(kind, name))
        assert all(found[key] == getattr(cls, key) for key in found), name
        assert {*catalogue.SAID[kind]} <= {*found}, f"{name} says nothing of {set(catalogue.SAID[kind]) - set(found)}"


def test_a_plugin_of_others_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs" / "deep").mkdir(parents=True)
    (tmp_path / "theirs" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (tmp_path / "theirs" / "deep" / "attacks.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "theirs" / "broken.py").write_text("class Mine(:", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = class_facts("theirs.deep.attacks:Mine")
    assert found == {"name": "base", "title": "mine", "access": "white box", "paper": "nobody 2020"}
    assert class_facts("theirs.deep.attacks:Round") == {"title": "round"}
    for nothing in ("theirs.broken:Mine", "theirs.deep.attacks:Other", "theirs.no:Mine", "nowhere_at_all.x:Mine"):
        assert class_facts(nothing) == {}
    assert "theirs" not in sys.modules


def test_where_a_plugin_is_from_is_shown_for_those_of_others() -> None:
    own = {"name": "side", "title": "SIDE", "from": "sidebench.methods.side:Side"}
    theirs = {"name": "theirs", "title": "theirs", "from": "theirs.attacks:Mine"}
    assert "sidebench.methods" not in catalogue.as_text([own], "attacks")
    text = catalogue.as_text([own, theirs], "attacks")
    assert "theirs.attacks:Mine" in text and "sidebench.methods" not in text
    assert catalogue.as_text([], "models") == "no models are registered"
