"""A model that was read wrongly finds nothing, and no claim calls it clean for that."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidebench.benchmark.files import write_json
from sidebench.benchmark.results import from_scores
from sidebench.benchmark.results.from_scores import said_with_care
from sidebench.benchmark.results.likeness import is_unlike, said_of_unlike
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import BandClaim, LeakClaim

UNITS = [("a.s0", "a", 0), ("a.s1", "a", 1), ("b.s0", "b", 0)]


def claim(attack: str, says: Any) -> LeakClaim:
    band = BandClaim(band="high", p=1.0, at_least=0.0, at_most=0.014)
    none: dict[str, Any] = {"closest": None, "widest": None, "groups_hit": 0, "least_groups": 5}
    return LeakClaim(attack=attack, seeds=[0], measure="m", candidates=48, says=says, bands=[band], **none)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return a folder in which the second preparation of `a` made other images than those of the pair."""
    monkeypatch.setattr(from_scores, "read_check", lambda *_: None)
    figures = {"a.s0": (0.05, 0.04), "a.s1": (1.9, 0.04), "b.s0": (0.3, 0.2)}
    write_json(
        tmp_path / "quality.json",
        {
            name: {"of_variance": far, "of_variance_training": training, "against": "held_out"}
            for name, (far, training) in figures.items()
        },
    )
    return RunFolder(tmp_path)


def test_images_are_unlike_where_as_many_training_images_are_nearer() -> None:
    assert [is_unlike(far, training) for far, training in ((0.24, 0.01), (0.26, 0.12), (0.26, 0.14), (0.9, 0.5))] == [
        False, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize("says", ["none seen", "cannot tell", "cannot see"])
def test_nothing_found_by_other_images_is_no_good_news(folder: RunFolder, says: Any) -> None:
    metrics: Any = SimpleNamespace(claims=[claim("a", says), claim("b", says)], reach=[])
    assert [found.says for found in said_with_care(folder, UNITS, metrics)] == ["unlike images", says]


@pytest.mark.parametrize("says", ["excess", "control does not fit"])
def test_what_was_found_stays_found(folder: RunFolder, says: Any) -> None:
    metrics: Any = SimpleNamespace(claims=[claim("a", says)], reach=[])
    assert [found.says for found in said_with_care(folder, UNITS, metrics)] == [says]


def test_the_flag_names_both_distances_and_what_to_look_at(folder: RunFolder, tmp_path: Path) -> None:
    said = said_of_unlike(folder, "a.s1")
    assert said is not None and "is 1.90 of the variance of these, that of as many training images 0.04" in said
    assert "prediction type, range, size" in said
    assert said_of_unlike(folder, "b.s0") is None
    for content in ({"skipped": "large images"}, {"a.s1": {"frechet_distance": 3.0}}):
        write_json(tmp_path / "quality.json", content)
        assert said_of_unlike(folder, "a.s1") is None
