"""Cheats on a run folder that is handed in: each keeps every hash right, as its maker can, and is refused by name."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadRecord
from sidebench.benchmark.files import (
    read_json,
    read_state,
    read_table,
    write_checked_json,
    write_json,
    write_state,
    write_table,
)
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.sums import sealed
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run
from sidebench.leaderboards import figures_again
from sidebench.leaderboards.challenge import as_text, challenge
from sidebench.leaderboards.make_records import make_records, write_record

EDITS = 60
"""Numbers of metrics.json that are changed, drawn from all that follow from scores."""
MEASURES = ["nl2c:n50:a0.5", "rms"]
"""Two of the five of digits: the figures of each are computed again for every record and challenge."""


@pytest.fixture(scope="module")
def pair_file(make_pair_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = make_pair_file(tmp_path_factory.mktemp("pair"), measures=MEASURES)
    return file


@pytest.fixture(scope="module")
def honest(pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a finished run of two attacks under two seeds, without its images, as a submitter hands it over."""
    plan = plan_run(load_pair(str(pair_file)), attacks=["side", "carlini-uncond"], candidates=30, seeds=(0, 1),
                    device="cpu", out=tmp_path_factory.mktemp("runs"))  # fmt: skip
    folder = runner.execute(plan).folder
    for part in ("images", "evidence"):
        shutil.rmtree(folder.path / part)
    return folder


@pytest.fixture
def run(honest: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy that a cheat may change."""
    shutil.copytree(honest.path, tmp_path / "run" / honest.path.name)
    return read_run(tmp_path / "run" / honest.path.name)


def write_metrics(folder: RunFolder, content: dict[str, Any]) -> None:
    """Put other results into a folder, with the sums that belong to them."""
    with sealed(folder):
        write_json(folder.path / "metrics.json", content)


def computed_again(folder: RunFolder) -> None:
    """Make metrics.json fit the scores and ledgers that a cheat wrote."""
    content = read_json(folder.path / "metrics.json")
    write_metrics(folder, content | figures_again.again(folder, load_metrics(folder)))


def refusal(folder: RunFolder, pair_file: Path, records: Path, count: int = 60) -> str:
    """Return what making a record of `side` from the folder and challenging it says, or nothing where all is well."""
    try:
        file = write_record(make_records(folder, "somebody", ["side"])[0], records)
        found = challenge(file, folder, count, pair=str(pair_file), device="cpu")
    except BadRecord as error:
        return str(error)
    return "" if found.passed else found.words


def numbers(content: Any, key: str = "") -> Iterator[tuple[str, list[str | int]]]:
    """Yield the dotted key and path of every number in a JSON value."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in parts:
        here = f"{key}.{name}" if key else str(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield here, [name]
        for below, path in numbers(value, here):
            yield below, [name, *path]


def test_an_honest_folder_is_accepted(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    assert refusal(run, pair_file, tmp_path) == ""


def test_cheat_another_digit_anywhere_in_the_numbers(run: RunFolder) -> None:
    metrics = load_metrics(run)
    right = figures_again.again(run, metrics)
    said = metrics.model_dump(mode="json", by_alias=True)
    places = [(key, path) for key, path in numbers(said) if path[0] in right]
    assert len(places) > 1_000
    for key, path in random.Random(1).sample(places, EDITS):
        edited = metrics.model_dump(mode="json", by_alias=True)
        *parents, last = path
        target: Any = edited
        for part in parents:
            target = target[part]
        target[last] += 1 if isinstance(target[last], int) else 1e-3
        found = [name for name, _, _ in figures_again.differences(edited, right)]
        assert found == [key]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("results.0.bands.0.training.ams.count", lambda content: content["results"][0]["bands"][0]["training"]["ams"]),
        ("costs.0.nfe.generate", lambda content: content["costs"][0]["nfe"]),
        ("training_images", lambda content: content),
    ],
)
def test_cheat_an_edited_figure_makes_no_record(
    run: RunFolder, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    content = read_json(run.path / "metrics.json")
    change(content)[key.rpartition(".")[2]] += 1
    write_metrics(run, content)
    with pytest.raises(BadRecord, match=rf"metrics\.json, {key}: says"):
        make_records(run, "somebody")


def test_cheat_a_ledger_of_one_call(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        file = run.ledger_file(f"side.s{seed}")
        stored = read_json(file)
        for cost in stored["shards"].values():
            cost["nfe"] = {"generate": 1}
        write_checked_json(file, {key: stored[key] for key in ("unit", "shards")})
    computed_again(run)
    assert "costs, side.s0, generate: says 0.0 denoiser calls a candidate, counted again" in refusal(
        run, pair_file, tmp_path
    )


def test_cheat_hits_spread_over_more_images(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    for file in (run.path / "scores").glob("side.s*.parquet"):
        if file.name.endswith((".pairs.parquet", ".bins.parquet")):
            continue
        table = read_table(file)
        place = table.column_names.index("training_ids")
        ids = table["training_ids"].combine_chunks()
        values = ids.flatten().to_numpy().copy().reshape(len(table), -1)
        values[:, 0] = np.arange(len(table))  # everybody's nearest image is another one; no score changes
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), ids.type.value_type), values.shape[1])
        write_table(file, table.set_column(place, "training_ids", column))
    computed_again(run)
    assert "reproduced candidates differ" in refusal(run, pair_file, tmp_path)


def test_cheat_a_control_that_is_called_fair(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    content = read_json(run.path / "metrics.json")
    content["control_check"] |= {"auc": 0.5 + (content["control_check"]["auc"] < 0.5) * 0.1, "low": 0.3, "high": 0.7}
    content["control_check"]["told_apart"] = False
    write_metrics(run, content)
    computed_again(run)
    assert refusal(run, pair_file, tmp_path).startswith("victim.control_check: the AUC is")


def test_cheat_a_reach_that_is_larger_than_it_is(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    content = read_json(run.path / "metrics.json")
    first = content["reach"][0]
    first["training"] |= {"value": 0.9, "count": round(0.9 * first["training"]["images"])}
    write_metrics(run, content)
    said = refusal(run, pair_file, tmp_path, 5)
    assert said == f"reach, {first['band']}, training: says 90.0 %, computed again 100.0 %"


@pytest.mark.parametrize("figure", ["frechet_distance", "precision"])
def test_cheat_images_of_a_better_quality(run: RunFolder, figure: str, pair_file: Path, tmp_path: Path) -> None:
    content = read_json(run.path / "quality.json")
    for unit in ("side.s0", "side.s1"):
        content[unit][figure] /= 2
    with sealed(run):
        write_json(run.path / "quality.json", content)
    assert refusal(run, pair_file, tmp_path, 5) == "", "nobody can tell by a few of the images"
    said = refusal(run, pair_file, tmp_path)
    assert said.startswith(f"quality.{figure.removesuffix('_distance')}: says ")


def test_cheat_training_images_that_were_held_out(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    table = read_table(run.references_file)
    rows = table["row"].to_numpy()[::-1]
    write_table(run.references_file, table.set_column(table.column_names.index("row"), "row", pa.array(rows)))
    assert refusal(run, pair_file, tmp_path).startswith("victim.sides_sha256")


def test_cheat_a_record_that_says_more_than_its_folder(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    record = make_records(run, "somebody", ["side"])[0]
    for changes, key in (
        ({"candidates": record.candidates - 1}, "candidates"),
        ({"victim": record.victim.model_copy(update={"training_groups": 3})}, "victim.training_groups"),
        ({"claim": record.claim.model_copy(update={"access": "samples"})}, "claim.access"),
    ):
        file = write_record(record.model_copy(update=changes), tmp_path)
        with pytest.raises(BadRecord, match=rf"^{key}: is"):
            challenge(file, run, 5, pair=str(pair_file), device="cpu")


def test_cheat_more_pairs_than_the_candidates_have(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    for file in (run.path / "scores").glob("side.s*.pairs.parquet"):
        table = read_table(file)
        extra = table.take([0] * 20)
        values = {"row": np.arange(20) % 10, "reference": np.arange(20), "distance": np.zeros(20)}
        for name, column in {**values, "held_out": np.zeros(20, dtype=bool)}.items():
            place = table.column_names.index(name)
            extra = extra.set_column(place, name, pa.array(column).cast(table[name].type))
        write_table(file, pa.concat_tables([table, extra]))
    computed_again(run)
    assert "reproduced candidates differ" in refusal(run, pair_file, tmp_path)


def test_cheat_a_state_that_its_preparation_does_not_make(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    file = write_record(make_records(run, "somebody", ["side"])[0], tmp_path)
    found = challenge(file, run, 5, pair=str(pair_file), device="cpu", prepare=True)
    assert found.prepared == "the same" and "prepared again: the same states" in as_text(found)
    state = run.state_file("side.s0")
    stored = read_state(state)
    cheaper = {**stored.info, "cost": {**stored.info["cost"], "nfe": {"prepare": 1}}}
    write_state(state, type(stored)(stored.tensors, cheaper))
    computed_again(run)
    file = write_record(make_records(run, "somebody", ["side"])[0], tmp_path)
    with pytest.raises(BadRecord, match=r"costs, side\.s0, prepare: says 1 denoiser calls, counted again"):
        challenge(file, run, 5, pair=str(pair_file), device="cpu", prepare=True)
    moved = {name: 30 * tensor if tensor.is_floating_point() else tensor for name, tensor in stored.tensors.items()}
    write_state(state, type(stored)(moved, stored.info))
    computed_again(run)
    file = write_record(make_records(run, "somebody", ["side"])[0], tmp_path)
    found = challenge(file, run, 60, pair=str(pair_file), device="cpu", prepare=True)
    assert found.prepared == "others" and not found.passed
