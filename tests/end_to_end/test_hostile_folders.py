"""A run folder or record is data: no file that it names is run or read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from complaints import complaints

from sidebench.benchmark.contracts import AttackState, ModelSpec
from sidebench.benchmark.data.pair import load_pair, write_pair
from sidebench.benchmark.errors import BadInput, BadPair, UnknownName
from sidebench.benchmark.files import (
    read_json,
    read_state,
    read_table,
    write_checked_json,
    write_json,
    write_state,
    write_table,
)
from sidebench.benchmark.gate.source import FinishedRun
from sidebench.benchmark.registry import registered
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.results.sums import sealed
from sidebench.leaderboards.challenge import challenge
from sidebench.leaderboards.make_records import make_records

Call = Callable[..., tuple[int, str, str]]
EVIL = """
from pathlib import Path
from sidebench import Attack, Defence
Path("imported").touch()
class A(Attack): ...
class D(Defence): ...
"""


@pytest.fixture
def hostile(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run folder that brings a Python file along, which leaves a trace when it is imported."""
    (copied / "sub").mkdir()
    (copied / "sub" / "evil.py").write_text(EVIL, encoding="utf-8")
    monkeypatch.chdir(copied)
    return copied


def change(folder: Path, **identity: Any) -> None:
    file = folder / "manifest.json"
    manifest = read_json(file)
    manifest["identity"] |= identity
    write_checked_json(file, manifest)


def test_the_trap_works(hostile: Path, call: Call) -> None:
    """The file is found and imported where the person at the command names it."""
    call("show", "sub/evil.py:D")
    assert (hostile / "imported").exists()


def test_replay_runs_no_defence_of_the_folder(hostile: Path, call: Call) -> None:
    change(hostile, defences={"sub/evil.py:D": {}})
    code, _, err = call("replay", hostile, 0, "--attack", "carlini-uncond")
    assert code == 2 and "defence 'sub/evil.py:D' is a local file" in err
    assert not (hostile / "imported").exists()


def test_a_challenge_runs_no_defence_of_the_folder(hostile: Path, tmp_path: Path) -> None:
    change(hostile, defences={"sub/evil.py:D": {}})
    with sealed(RunFolder(hostile)):
        metrics = read_json(hostile / "metrics.json")
        write_json(hostile / "metrics.json", metrics | {"defences": {"sub/evil.py:D": {}}})
    record = make_records(read_run(hostile), "somebody", ["carlini-uncond"])[0]
    file = tmp_path / "record.json"
    file.write_text(record.text(), encoding="utf-8")
    with pytest.raises(BadInput, match=r"defence 'sub/evil\.py:D' is a local file"):
        challenge(file, read_run(hostile), 1, device="cpu")
    assert not (hostile / "imported").exists()


@pytest.mark.parametrize("command", ["label", "replay"])
def test_a_pair_file_is_named_by_the_person_at_the_command(command: str, hostile: Path, call: Call) -> None:
    (hostile / "sub" / "evil.yaml").write_text("name: evil", encoding="utf-8")
    change(hostile, pair="sub/evil.yaml")
    more = [0, "--attack", "carlini-uncond"] if command == "replay" else []
    code, _, err = call(command, hostile, *more)
    assert code == 2 and "does not ship with sidebench: give --pair FILE" in err


def test_only_installed_names_come_from_folders_and_records() -> None:
    assert registered("attack", "side") == "side"
    assert registered("attack", "side--random-labels") == "side--random-labels"
    for name in ("./evil.py:A", "evil.py:A", "/tmp/evil.py:A--x", "evil.py"):
        with pytest.raises(BadInput, match="runs no code"):
            registered("attack", name)
    with pytest.raises(UnknownName, match="sid"):
        registered("attack", "sid")


EVIL_CLASS = "sub/evil.py:A"


def change_metrics(folder: Path, **result: Any) -> None:
    """Change every result, and take away the sums that would tell."""
    metrics = read_json(folder / "metrics.json")
    metrics["results"] = [{**found, **result} for found in metrics["results"]]
    write_checked_json(folder / "metrics.json", metrics)
    (folder / "SHA256SUMS").unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: change(folder, measures=[EVIL_CLASS]),
        lambda folder: change(folder, defences={EVIL_CLASS.replace(":A", ":D"): {}}),
        lambda folder: change_metrics(folder, measure=EVIL_CLASS),
        lambda folder: change_metrics(folder, attack=EVIL_CLASS),
    ],
    ids=["measure of the run", "defence", "measure of a result", "attack of a result"],
)
def test_no_command_runs_what_a_folder_names(
    change: Callable[[Path], None], hostile: Path, finished: Any, call: Call
) -> None:
    change(hostile)
    for command in (
        ("show", hostile),
        ("report", hostile),
        ("score", hostile, "--bands", "near=0:0.3"),
        ("compare", finished.folder.path, hostile),
        ("label", hostile),
        ("leaderboard", "add", hostile, "--as", "me", "--records", "records"),
        ("gate", hostile, "--policy", "example"),
        ("replay", hostile, 0, "--attack", "side"),
    ):
        code, _, err = call(*command)
        assert code in (0, 2) and "Traceback" not in err, (command, err)
    assert not (hostile / "imported").exists()


def test_a_folder_cannot_allow_a_pickle_or_name_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate loads the pair's own model; of the folder it takes the family and the hashes alone."""
    loaded: list[ModelSpec] = []
    monkeypatch.setattr("sidebench.benchmark.models.load_model", loaded.append)
    source = object.__new__(FinishedRun)
    source._pair = load_pair("digits")
    source._attacked = {
        "family": "pixel",
        "sha256": {},
        "allow_pickle": True,
        "location": "sub",
        "lora": {"location": "sub/evil", "sha256": ""},
    }
    source.victim()
    assert loaded == [ModelSpec(family="pixel", location="zoo:digits")]


def test_a_picture_of_the_folder_is_no_file_of_the_user(hostile: Path, tmp_path: Path, call: Call) -> None:
    """`report --with-images` puts files of evidence/ into a page that is passed on."""
    (tmp_path / "secret").write_text("four years", encoding="utf-8")
    picture = next((hostile / "evidence").glob("*/*.png"))
    picture.unlink()
    picture.symlink_to(tmp_path / "secret")
    code, _, err = call("report", hostile, "--with-images")
    assert code == 2 and "is a link that leads out of the folder; remove it" in err


SHARD = "carlini-uncond.s0.pixels.00000000-00000016"


def put_column(file: Path, name: str, values: pa.Array) -> None:
    table = read_table(file)
    write_table(file, table.set_column(table.column_names.index(name), name, values))


def beyond(folder: Path) -> None:
    ids = pa.FixedSizeListArray.from_arrays(pa.array([10**6] * 16 * 50, pa.int32()), 50)
    put_column(folder / "scores" / f"{SHARD}.parquet", "training_ids", ids)


def of_text(folder: Path) -> None:
    put_column(folder / "scores" / f"{SHARD}.parquet", "nan", pa.array(["x"] * 16))


def cut(folder: Path) -> None:
    file = folder / "images" / "carlini-uncond.s0" / "00000000-00000016.safetensors"
    state = read_state(file)
    write_state(file, AttackState({**state.tensors, "images": state.tensors["images"][:3]}, state.info))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (beyond, "scores of carlini-uncond.s0 name a training image beyond 256"),
        (of_text, "its marks are of another type"),
        (cut, "does not hold these candidates"),
    ],
)
def test_the_gate_refuses_scores_and_images_that_cannot_be(
    damage: Callable[[Path], None], said: str, hostile: Path, call: Call
) -> None:
    damage(hostile)
    policy = {
        "schema": "sidebench-policy/1",
        "attacks": {"carlini-uncond": {}},
        "measure": "nl2c:n50:a0.5",
        "threshold": {"fixed": 0.5},
        "limits": {"raw_rate": 0.5},
        "budget": {"candidates": 40},
    }
    Path("policy.yaml").write_text(json.dumps(policy), encoding="utf-8")
    code, _, err = call("gate", hostile, "--policy", "policy.yaml")
    assert code == 2 and said in complaints(err)[-1]


def test_a_list_of_rows_shows_nothing_of_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("root:x:0:0\n", encoding="utf-8")
    pair = tmp_path / "mine.yaml"
    write_pair(load_pair("digits"), pair)
    chosen = "data:\n  members: {split: train, indices: secret.txt}\n"
    pair.write_text(pair.read_text(encoding="utf-8").replace("data:\n", chosen, 1), encoding="utf-8")
    with pytest.raises(BadPair, match=r"secret\.txt is no list of row numbers, one a line: it holds") as refused:
        load_pair(str(pair))
    assert "root" not in str(refused.value)
