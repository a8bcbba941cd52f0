"""Verification by challenge: honest runs agree, and runs whose parts do not belong together do not."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from made_records import as_version

from sidebench.benchmark.data.pair import FOLDER, IN_TRAINING, load_pair
from sidebench.benchmark.errors import BadInput, BadRecord, BadSetting
from sidebench.benchmark.files import (
    canonical_json,
    read_json,
    read_state,
    read_table,
    write_json,
    write_state,
    write_table,
    write_text,
)
from sidebench.benchmark.results.run_folder import RunFolder, read_run
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.results.sums import sealed
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run
from sidebench.leaderboards import figures_again
from sidebench.leaderboards.badge import Checked, checked_file, read_checked
from sidebench.leaderboards.challenge import as_text, challenge, installed
from sidebench.leaderboards.challenge_checks import check_varying_cost, some_of
from sidebench.leaderboards.make_records import file_hash, make_records, write_record
from sidebench.leaderboards.read_records import record_files
from sidebench.leaderboards.record import Record


@pytest.fixture(scope="module")
def pair_file(make_pair_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = make_pair_file(tmp_path_factory.mktemp("pair"))
    return file


@pytest.fixture(scope="module")
def submitted(pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a finished run of `side` under two seeds, without its images, as a submitter hands it over."""
    plan = plan_run(load_pair(str(pair_file)), attacks=["side"], candidates=30, seeds=(0, 1), device="cpu",
                    out=tmp_path_factory.mktemp("runs"))  # fmt: skip
    folder = runner.execute(plan).folder
    for part in ("images", "evidence"):
        shutil.rmtree(folder.path / part)
    return folder


@pytest.fixture
def run(submitted: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy that a test may change."""
    shutil.copytree(submitted.path, tmp_path / "run" / submitted.path.name)
    return read_run(tmp_path / "run" / submitted.path.name)


def recorded(folder: RunFolder, records: Path) -> Path:
    return write_record(make_records(folder, "somebody")[0], records)


def test_an_honest_run_agrees(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    file = recorded(run, tmp_path / "records")
    found = challenge(file, run, 12, pair=str(pair_file), device="cpu")
    assert (found.checked, found.agreed, found.of) == (12, 12, 60)
    assert found.largest == 0.0
    assert found.words == "reproduced 12 of 60"
    assert found.wrong_at_most() == pytest.approx(1 - 0.05 ** (1 / 12))
    assert read_checked(file, file_hash(file)) == found and record_files(tmp_path / "records") == [file]
    again = challenge(file, run, 12, pair=str(pair_file), device="cpu", draw=found.draw)
    assert again.draw == found.draw


def test_scores_that_the_state_does_not_make_disagree(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    stored = read_state(run.state_file("side.s0"))
    turned = {name: -tensor if tensor.is_floating_point() else tensor for name, tensor in stored.tensors.items()}
    write_state(run.state_file("side.s0"), type(stored)(turned, stored.info))
    found = challenge(recorded(run, tmp_path), run, 60, pair=str(pair_file), device="cpu")
    assert 30 <= found.agreed < 60, "seed 1 is honest, seed 0 is not"
    assert found.wrong_at_most() == 1.0
    assert "does not make these scores" in as_text(found)


def test_another_folder_than_the_one_committed_to_is_refused(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    file = recorded(run, tmp_path)
    for name, field in (
        ("state/side.s1/state.safetensors", "hashes.state.1"),
        ("metrics.json", "hashes.metrics"),
        ("manifest.json", "hashes.manifest"),
    ):
        changed = run.path / name
        kept = changed.read_bytes()
        changed.write_bytes(kept + b" ")
        with pytest.raises(BadRecord, match=field.replace(".", r"\.")):
            challenge(file, run, 5, pair=str(pair_file), device="cpu")
        changed.write_bytes(kept)
    scores = sorted((run.path / "scores").glob("side.s0.*"))[0]
    scores.unlink()
    with pytest.raises(BadRecord, match=r"hashes\.scores\.0"):
        challenge(file, run, 5, pair=str(pair_file), device="cpu")
    assert read_checked(file, file_hash(file)) is None


def test_another_pair_or_too_many_candidates_are_refused(run: RunFolder, pair_file: Path, tmp_path: Path) -> None:
    file = recorded(run, tmp_path)
    with pytest.raises(BadInput, match="cannot be made here as it was: pair"):
        challenge(file, run, 5, pair="digits", device="cpu")
    for count in (0, 61):
        with pytest.raises(BadSetting, match="between 1 and 60"):
            challenge(file, run, count, pair=str(pair_file), device="cpu")


def test_what_is_not_installed_is_said_with_what_a_challenge_needs(run: RunFolder) -> None:
    record = make_records(run, "somebody")[0]
    assert installed(record) == "side"

    def claiming(**said: Any) -> Record:
        return record.model_copy(update={"claim": record.claim.model_copy(update=said)})

    own = {"file": "mine.py", "sha256": "0" * 64}
    package = {"package": "mine", "version": "2.1", "address": "https://example.org/mine", "sha256": "0" * 64}
    for said, field, needed in (
        (
            {"attack": "mine", "code": {"mine": own}},
            "claim.attack",
            "mine.py.*new attack.* a record of a run",
        ),
        ({"defences": {"mine": {}}, "code": {"mine": own}}, "claim.defences.mine", "mine.py.*new defence"),
        (
            {"attack": "mine", "code": {"mine": package}},
            "claim.attack",
            "install mine 2.1 from https://example",
        ),
        ({"version": record.claim.version + 1}, "claim.version", "here$"),
    ):
        with pytest.raises(BadRecord, match=f"^{field}: .*{needed}"):
            installed(claiming(**said))
    assert installed(claiming(defences={f"{IN_TRAINING}x": {}})) == "side"


def test_a_reference_models_candidates_are_reproduced_too(make_pair_file: Any, tmp_path: Path) -> None:
    content, clean = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("digits", "digits-clean"))
    content["data"]["split"] |= {"held_out": 0, "pool": 256}
    file = make_pair_file(tmp_path, control="reference-model", reference_model=clean["model"], data=content["data"],
                          measures=["nl2:n50:a0.5"])  # fmt: skip
    folder = runner.execute(plan_run(load_pair(str(file)), attacks=["carlini-uncond"], candidates=12, device="cpu",
                                     out=tmp_path)).folder  # fmt: skip
    assert challenge(recorded(folder, tmp_path), folder, 12, pair=str(file), device="cpu").agreed == 12
    for scores in (folder.reference().path / "scores").glob("*.parquet"):
        table = read_table(scores)
        if "training_distances" in table.column_names:
            place = table.column_names.index("training_distances")
            farther = pa.array([[9 * far for far in row] for row in table["training_distances"].to_pylist()],
                               table["training_distances"].type)  # fmt: skip
            write_table(scores, table.set_column(place, "training_distances", farther))
    content = load_metrics(folder).model_dump(mode="json", by_alias=True)
    with sealed(folder):
        write_json(folder.path / "metrics.json", content | figures_again.again(folder, load_metrics(folder)))
    assert challenge(recorded(folder, tmp_path), folder, 12, pair=str(file), device="cpu").agreed < 12


def test_a_record_of_schema_4_is_challenged_by_what_it_says(make_pair_file: Any, tmp_path: Path) -> None:
    file = make_pair_file(tmp_path, measures=["nl2c:n50:a0.5"])
    folder = runner.execute(plan_run(load_pair(str(file)), attacks=["carlini-uncond"], candidates=12, device="cpu",
                                     out=tmp_path)).folder  # fmt: skip
    (record,) = make_records(folder, "somebody")
    text = canonical_json(as_version(record, 4))
    old = record.file(tmp_path / "old", hashlib.sha256(text.encode()).hexdigest()[:12])
    write_text(old, text)
    assert challenge(old, folder, 5, pair=str(file), device="cpu").passed

    # One that could say what its bands see, and does not, is no older record.
    content = read_json(folder.path / "metrics.json")
    with sealed(folder):
        write_json(folder.path / "metrics.json", {**content, "reach": []})
    with pytest.raises(BadRecord, match="reach: is of other bands"):
        challenge(recorded(folder, tmp_path), folder, 5, pair=str(file), device="cpu")


def test_a_badge_does_not_outlive_its_record(run: RunFolder, tmp_path: Path) -> None:
    file = recorded(run, tmp_path)
    fields = {"draw": "0" * 32, "checked": 3, "agreed": 3, "of": 60, "tolerance": 0.01, "largest": 0, "device": "cpu"}
    content = {"schema": "sidebench-challenge/1", "record": "0" * 64, "day": "2026-01-02", **fields}
    checked_file(file).write_text(Checked.model_validate(content).model_dump_json(by_alias=True), encoding="utf-8")
    with pytest.raises(BadRecord, match="is the hash of another record"):
        read_checked(file, file_hash(file))
    for text, field in (("{}", "schema"), ("[", "cannot be read")):
        checked_file(file).write_text(text, encoding="utf-8")
        with pytest.raises(BadRecord, match=field):
            read_checked(file, file_hash(file))


def of_each(*calls: float) -> list[dict[str, dict[str, float]]]:
    return [{"nfe": {"generate": count}, "flops": {}} for count in calls]


def test_an_attack_that_takes_longer_for_some_candidates_is_held_to_the_mean_of_all() -> None:
    said = {"nfe": {"generate": 11.8}, "flops": {}}
    check_varying_cost(said, of_each(7, 21, 9, 13, 8, 21, 12, 16), "mine.s0")
    with pytest.raises(BadRecord, match=r"says 11.8 denoiser calls a candidate, counted again 6.5, with 1.2 to be"):
        check_varying_cost(said, of_each(6, 7, 6, 7), "mine.s0")
    # Where all take the same there is nothing that a draw could explain.
    with pytest.raises(BadRecord, match=r"says 11.8 denoiser calls a candidate, counted again 14.0$"):
        check_varying_cost(said, of_each(14, 14, 14), "mine.s0")
    with pytest.raises(BadRecord, match=r"prepare: says 0.0 operations a candidate, counted again 5.0$"):
        check_varying_cost(said, [{"nfe": {"generate": 11.8}, "flops": {"prepare": 5.0}}] * 3, "mine.s0")
    assert some_of(np.arange(0, 100, 3), 1024) == list(range(0, 100, 3)), "what was drawn, where it is enough"
