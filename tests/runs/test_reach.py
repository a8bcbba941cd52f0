"""What a run records of its measures' reach, by what stands between its model and the images."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import latent_pipeline, picture_repository
from output_path import Meddling, Stain, StainSettings

from sidebench.benchmark.contracts import Defence, ModelSpec
from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.fits import Fits
from sidebench.benchmark.data.pair import Pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.measures.nl2 import NormalizedL2Combined
from sidebench.benchmark.measures.roundtrip import RoundTrip
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.results.schema import Reach
from sidebench.benchmark.runs import victim
from sidebench.benchmark.runs.check_attack import NotConformant
from sidebench.benchmark.runs.check_defence import check_level
from sidebench.benchmark.runs.plan import RunPlan, plan_run
from sidebench.benchmark.runs.write_results import reach_of_run
from sidebench.benchmark.sampling.defended import defend, in_order
from sidebench.methods.defences.eta import Eta
from sidebench.methods.defences.output_noise import OutputNoise


def reach_of(plan: RunPlan) -> list[Reach]:
    references = load_references(plan.pair)
    path = victim.output_path(plan, references)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, torch.device("cpu"), path)
    return reach_of_run(plan, references, scorer, Fits(references.content()))


@pytest.fixture
def digits(make_plan: Any, tmp_path: Path) -> Any:
    """Return a function that plans a run on digits behind these defences."""

    def plan(*defences: Defence) -> RunPlan:
        made: RunPlan = make_plan(tmp_path, attacks=("carlini-uncond",), measures=("nl2c:n10:a0.5",))
        return replace(made, defences=in_order(defences))

    return plan


def test_copies_of_a_pixel_model_are_exact_and_nothing_is_loaded(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = digits()
    monkeypatch.setattr(victim, "defend", lambda *_: pytest.fail("the model was loaded"))
    found = {row.band: row for row in reach_of(plan)}
    assert {row.how for row in found.values()} == {"identity"}
    high = found["high"]
    assert high.training is not None and (high.training.value, high.training.low) == (1, 1)
    assert high.training.images == 256 and high.held_out is not None and high.held_out.value == 1


def test_a_defence_on_the_output_lowers_the_reach_by_its_strength(digits: Any) -> None:
    shares = []
    for scale in (0.0, 0.06, 0.07, 0.5):
        high = reach_of(digits(Stain(StainSettings(scale=scale))))[0]
        assert (high.band, high.how, high.reason) == ("high", "output defence", "through stain")
        assert high.training is not None and high.held_out is not None
        assert high.held_out.value == pytest.approx(high.training.value, abs=0.15)
        shares.append(high.training.value)
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and 0 < shares[2] < 1 and shares[3] == 0


def test_behind_a_defence_in_the_loop_there_is_none(digits: Any) -> None:
    alone = "eta acts while an image is sampled: no reference image can be sent through it"
    both = "eta and output-noise act while an image is sampled: no reference image can be sent through them"
    for around, said in (([Eta()], alone), ([Eta(), OutputNoise(), Stain()], both)):
        found = reach_of(digits(*around))
        assert {(row.how, row.training, row.held_out) for row in found} == {("none", None, None)}
        assert {row.reason for row in found} == {said}


def test_a_defence_on_the_output_that_samples_otherwise_does_not_conform(digits: Any) -> None:
    plan = digits()
    for defence in (Stain(), Meddling()):
        model = defend(victim.load_victim(plan), [defence], "ddim", lambda: torch.zeros(0))
        if isinstance(defence, Meddling):
            with pytest.raises(NotConformant, match="stain: its level is output, and it changes eta"):
                check_level(defence, model)
        else:
            check_level(defence, model)


@pytest.fixture
def latent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a plan on a latent model with an autoencoder of random weights."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    place = picture_repository(tmp_path / "noise", train=14, test=12)
    pair = Pair(
        **dict.fromkeys(("name", "title", "description", "licence"), "own"),
        revision=1,
        control="surrogate",
        model={"family": "latent", "location": str(latent_pipeline(tmp_path / "kl", "kl"))},
        data={
            "source": "folder",
            "path": str(place),
            "size": 8,
            "members": {"split": "train"},
            "held_out": {"split": "test"},
        },
        measures=["nl2c:n1:a0.5"],
        protocol={"micro_batch": 2, "sampler": {"steps": 2}},
        attacks={"carlini-uncond": {"origin": "untuned"}},
    )
    return plan_run(pair, candidates=4, device="cpu", out=tmp_path / "runs")


def test_an_autoencoder_of_random_weights_shows_nothing_but_its_own_round_trips(latent: RunPlan) -> None:
    options = ["n1", "a0.5"]
    plan = replace(latent, measures=(NormalizedL2Combined(options), RoundTrip(["nl2c", *options])))
    found = {(row.measure, row.band): row for row in reach_of(plan)}
    assert {(row.how, row.reason) for row in found.values()} == {("round trip", "through the model's autoencoder")}
    pixels, through = (found[measure.id, "high"] for measure in plan.measures)
    assert pixels.training is not None and pixels.training.value < 0.5
    for share in (through.training, through.held_out):
        assert share is not None and share.value == 1
    assert pixels.training.images == 14 and pixels.held_out is not None and pixels.held_out.images == 12


def test_what_the_path_is_names_model_precision_and_defences(latent: RunPlan, digits: Any) -> None:
    references = load_references(latent.pair)
    stained = replace(latent, defences=(Stain(),))
    half = replace(latent, model=ModelSpec(**{**latent.model.model_dump(), "dtype": "bfloat16"}))
    paths = [victim.output_path(plan, references) for plan in (latent, half, stained)]
    contents = [path.content for path in paths if path is not None]
    assert len(contents) == 3 and all(one != other for one, other in pairwise(contents))
    assert paths[2] is not None and paths[2].defences == ("stain",) and paths[2].autoencoder
    assert victim.output_path(digits(), references) is None
