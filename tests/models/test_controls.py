"""Controls with known truth give the truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.data.pair import Pair, load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, TooFew, UnknownName
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.controls import make_control
from sidebench.benchmark.runs.plan import plan_run


def test_coins_are_exact_and_belong_to_the_candidate(tmp_path: Path) -> None:
    spec = make_control("control:mixture:0.25", load_pair("digits"), tmp_path)
    model = load_model(spec)
    references = load_references(load_pair("digits"))
    drawn = model.draw(Candidates(5, range(2000)))
    assert drawn is not None
    known = {image.tobytes() for image in references.training.images}
    copies = np.array([(im * 255).round().byte().numpy().tobytes() in known for im in model.decode(drawn)])
    assert binomtest(int(copies.sum()), 2000, 0.25).pvalue > 0.001
    some = model.draw(Candidates(5, [1999, 7]))
    assert some is not None and torch.equal(some, drawn[[1999, 7]])
    other = model.draw(Candidates(6, range(2000)))
    assert other is not None and not torch.equal(other, drawn)


def test_density_goes_through_the_sampler(tmp_path: Path) -> None:
    model = load_model(make_control("control:density:0.5", load_pair("digits"), tmp_path))
    assert model.draw(Candidates(0, range(4))) is None


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("control:copycats", UnknownName, "did you mean control:copycat"),
        ("control:copycat:0.1", UnknownName, "unknown control"),
        ("control:mixture", UnknownName, "mixture:P"),
        ("control:mixture:1.5", BadInput, "'1.5' is not a probability"),
        ("control:mixture:few", BadInput, "'few' is not a probability"),
    ],
)
def test_wrong_controls_are_refused(name: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        make_control(name, load_pair("digits"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pair_without_a_pool_cannot_replay_it(tmp_path: Path) -> None:
    content = load_pair("digits").model_dump()
    content["data"]["split"]["pool"] = 0
    with pytest.raises(TooFew, match="no pool"):
        make_control("control:heldout", Pair(**content), tmp_path)


def test_a_control_is_another_run_than_the_pair(tmp_path: Path) -> None:
    def folder(model: str | None) -> str:
        plan = plan_run(load_pair("digits"), candidates=8, model=model, out=tmp_path, device="cpu")
        return plan.folder().path.name

    names = {folder(model) for model in (None, "control:copycat", "control:mixture:0.1", "control:mixture:0.2")}
    assert len(names) == 4
    assert folder("control:copycat") == folder("control:copycat")
