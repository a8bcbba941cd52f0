"""Images that somebody generated already: copies are found and counted, all that needs a model is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sidebench import execute, load_pair, load_references, plan_run, write_report
from sidebench.benchmark.data.pair import FOLDER, Pair
from sidebench.benchmark.errors import BadInput, BadRecord, TooFew
from sidebench.benchmark.gate.judge import gate_pair, gate_run
from sidebench.benchmark.gate.policy import load_policy
from sidebench.leaderboards.check import check_files
from sidebench.leaderboards.make_records import add_records
from sidebench.leaderboards.ranking import read_leaderboard

COPIES, OTHERS = 60, 140
POLICY = """
schema: sidebench-policy/1
attacks: {as-given: {}}
measure: nl2c:n50:a0.5
threshold: {fixed: 0.5}
limits: {excess: 0.05}
budget: {candidates: 1000}
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 training images of digits among 140 images of neither side."""
    folder = tmp_path_factory.mktemp("made") / "generated"
    folder.mkdir()
    references = load_references(load_pair("digits"))
    images = np.concatenate([references.training.images[:COPIES], references.pool.images[:OTHERS]])
    for number, place in enumerate(np.random.default_rng(1).permutation(len(images))):
        Image.fromarray(images[place, 0]).save(folder / f"{number:04}.png")
    return folder


@pytest.fixture(scope="module")
def pair(generated: Path) -> Pair:
    content = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    content |= {
        "name": "mine",
        "model": {"location": f"images:{generated}"},
        "attacks": {"as-given": {"origin": "none"}},
    }
    content.pop("recipe")
    return Pair(**{**content, "made_by": "https://example.org/generated"})


@pytest.fixture(scope="module")
def finished(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return execute(plan_run(pair, device="cpu", out=tmp_path_factory.mktemp("runs")))


def test_the_copies_are_found_and_the_images_are_marked_as_given(finished: Any) -> None:
    metrics = finished.metrics
    (closest,) = [band for result in metrics.results[:1] for band in result.bands[:1]]
    assert metrics.results[0].candidates == COPIES + OTHERS
    assert (closest.training.ams.count, closest.training.groups, closest.held_out.ams.count) == (COPIES, COPIES, 0)
    (cost,) = metrics.costs
    assert (sum(cost.nfe.values()), cost.denoiser_equivalents, cost.hits) == (0, 0, COPIES)
    assert any(flag.startswith("images as given: sidebench did not see how they were made") for flag in metrics.flags)
    assert f"as-given seed 0: {COPIES} of {COPIES + OTHERS} images are training images, byte for byte" in metrics.flags
    (claim,) = metrics.claims
    assert claim.says == "excess"
    write_report(finished.folder)
    assert "images as given" in finished.folder.report_file.read_text(encoding="utf-8")


def test_the_first_of_them_can_be_asked_for_and_no_more_than_there_are(pair: Pair, tmp_path: Path) -> None:
    assert plan_run(pair, candidates=64, device="cpu", out=tmp_path).candidates == 64
    with pytest.raises(TooFew, match="201 candidates were asked for, 200 images exist"):
        plan_run(pair, candidates=201, device="cpu", out=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attacks": ["side"]}, "side needs a model, and there are images alone: give --attack as-given"),
        ({"seeds": (0, 1)}, "the same under every seed"),
        ({"defences": ["eta"]}, "eta changes how a model samples, and these images exist already"),
        ({"model": "zoo:digits"}, "as-given scores images that exist already: give --model images:PATH"),
    ],
)
def test_what_needs_a_model_is_refused(options: dict[str, Any], said: str, pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        plan_run(pair, device="cpu", out=tmp_path, **options)


def test_other_images_are_another_run(pair: Pair, finished: Any, generated: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for file in sorted(generated.iterdir())[:-1]:
        (fewer / file.name).write_bytes(file.read_bytes())
    plan = plan_run(pair, model=f"images:{fewer}", device="cpu", out=finished.folder.path.parent)
    assert plan.folder().path != finished.folder.path


def test_the_gate_judges_the_finished_run(pair: Pair, finished: Any, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY, encoding="utf-8")
    policy = load_policy(file)
    assert gate_run(finished.folder, pair, policy).verdict == "fail"
    with pytest.raises(BadInput, match="scored first: sidebench score-images, then sidebench gate RUN"):
        gate_pair(pair, policy, out=tmp_path)


def test_a_record_of_them_stands_apart(finished: Any, tmp_path: Path) -> None:
    (file,) = add_records(finished.folder, "somebody", [], tmp_path)
    assert not check_files([file], tmp_path)
    (board,) = read_leaderboard(tmp_path).boards
    assert not board.ranked
    assert [row.why.partition(":")[0] for row in board.apart] == ["images as given"]


def test_they_are_no_record_of_a_pair_that_is_a_model(generated: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"attacks": ["as-given"], "candidates": 8, "device": "cpu", "out": tmp_path}
    plan = plan_run(load_pair("digits"), model=f"images:{generated}", **options)
    with pytest.raises(BadRecord, match="digits is a model: write a pair file whose model is images:PATH"):
        add_records(execute(plan).folder, "somebody", [], tmp_path / "records")
