"""Pair files: the shipped ones are whole, and a user's own works from anywhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidebench.benchmark.data import model_files, pipeline_folder
from sidebench.benchmark.data.pair import FOLDER, Pair, load_pair, pair_names
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadPair, UnknownName
from sidebench.benchmark.registry import find, make_measure
from sidebench.benchmark.reports.catalogue import listing
from sidebench.benchmark.runs.write_results import _flags

EMBEDDED = [name for name in pair_names() if load_pair(name).model.location.startswith("zoo:")]


def test_pairs_that_nobody_has_run_say_so() -> None:
    listed = {row["name"]: row["checked"] for row in listing("pairs")}
    for name in pair_names():
        pair = load_pair(name)
        assert pair.verified == (name in EMBEDDED) and pair.name == name
        assert listed[name].startswith("yes" if pair.verified else "no: nobody")
        assert pair.verified or (pair.model.repo and pair.control != "iid" and pair.attacks)


def test_numbers_of_a_pair_that_nobody_has_run_carry_a_flag() -> None:
    assert not _flags([], None, digits())
    (flag,) = _flags([], None, digits(verified=False))
    assert "not verified" in flag and "real Hub" in flag


def test_what_somebody_claims_of_a_pair_is_a_flag() -> None:
    claimed = digits(claim="control iid is claimed")
    assert _flags([], None, claimed) == ["control iid is claimed"] and claimed.identity() == digits().identity()


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_pair_is_whole(name: str) -> None:
    pair = load_pair(name)
    folder = model_files.locate(pair.model.location)
    model_files.check_files(folder, pair.model.sha256)
    assert pair.name == name
    assert {Path(file).name for file in pair.model.sha256} >= {"diffusion_pytorch_model.safetensors", "config.json"}
    assert not [file for file in folder.rglob("*") if file.suffix in pipeline_folder.PICKLES]
    for measure in pair.measures:
        made = make_measure(measure)
        assert made.id == measure
        made.check(pair.data.rule.training, pair.data.rule.held_out, pair.allow_dense_neighbours)
    for attack, given in pair.attacks.items():
        find("attack", attack).Settings(**given.settings)
        assert given.origin.strip()


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_data_are_the_pinned_ones(name: str) -> None:
    pair = load_pair(name)
    found = load_references(pair)
    assert found.fingerprint == pair.data.sha256
    assert (len(found.training), len(found.held_out)) == (pair.data.rule.training, pair.data.rule.held_out)
    assert not set(found.training.groups) & set(found.held_out.groups)


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean digits") as caught:
        load_pair("digts")
    assert "digits" in caught.value.close


CHANGED: dict[str, dict[str, Any]] = {
    "revision": {"revision": 2},
    "control": {"control": "surrogate"},
    "measures": {"measures": ["rms"]},
    "weights": {"model": {"location": "zoo:digits", "sha256": {"unet/config.json": "0"}}},
    "split": {"data": {"split": {"seed": 1, "duplicate_rms": 0.05, "training": 256, "held_out": 256, "pool": 512}}},
    "data": {"data": {"sha256": "0" * 64}},
    "protocol": {"protocol": {"sampler": {"steps": 3}}},
}
SAME: dict[str, dict[str, Any]] = {
    "title": {"title": "another"},
    "description": {"description": "another"},
    "notes": {"notes": "another"},
    "licence": {"licence": "another"},
    "reason": {"protocol": {"reason": "another"}},
    "micro-batch": {"protocol": {"micro_batch": 3}},
}


def digits(**changes: Any) -> Pair:
    content = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    return Pair(**content)


@pytest.mark.parametrize("what", CHANGED)
def test_identity_changes_with_what_can_change_a_number(what: str) -> None:
    assert digits(**CHANGED[what]).identity() != digits().identity()


@pytest.mark.parametrize("what", SAME)
def test_identity_ignores_prose(what: str) -> None:
    assert digits(**SAME[what]).identity() == digits().identity()


def test_changes_of_the_protocol_carry_their_reason() -> None:
    changed = {"protocol": {"sampler": {"steps": 10}, "reason": "the model is slow"}}
    assert _flags([], None, digits(**changed)) == ["the pair changes the protocol's sampler: the model is slow"]
    assert digits(**changed).identity() == digits(protocol={"sampler": {"steps": 10}}).identity()
    (flag,) = _flags([], None, digits(protocol={"sampler": {"steps": 10}}))
    assert flag.endswith("sampler, and gives no reason")
    assert _flags([], None, digits(protocol={"micro_batch": 4})) == []


def test_identity_ignores_where_files_are() -> None:
    assert digits(model={"location": "/elsewhere"}).identity() == digits().identity()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("control: none\n", "control stands twice, the first time in line"),
        ("attacks: {side: {settings: {blocks: &b [*b]}}}\n", r"\*b contains itself"),
        ("when: 2001-99-99\n", "'2001-99-99' cannot be read as a date"),
    ],
)
def test_a_pair_file_is_strict_yaml(tmp_path: Path, more: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text((FOLDER / "digits.yaml").read_text(encoding="utf-8") + more, encoding="utf-8")
    with pytest.raises(BadPair, match=rf"^pair file own\.yaml, line \d+: {message}"):
        load_pair(str(file))
