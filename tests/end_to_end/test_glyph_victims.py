"""What the text-to-image victims that ship do: `glyphs` replays a part of its captions, `glyphs-clean` none."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from complaints import complaints

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Model, ModelSpec, SamplerSettings
from sidebench.benchmark.data.fits import Fits
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import References, load_references
from sidebench.benchmark.measures.output_path import OutputPath
from sidebench.benchmark.measures.reach import reached
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.models import load_model
from sidebench.benchmark.protocol import TOP_K
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.sampling.sampler import quantise
from sidebench.benchmark.sampling.views import AuditedModel

pytest.importorskip("transformers")

CAPTIONS = 32
"""Unique captions of each side."""


@functools.cache
def victim(name: str) -> tuple[Model, References]:
    pair = load_pair(name)
    spec = ModelSpec(family="text", location=pair.model.location, sha256=pair.model.sha256)
    return load_model(spec), load_references(pair)


def own_image_nearest(model: Model, found: References) -> dict[str, float]:
    """Return by side the share of captions whose image is nearer to the caption's own than to any other of X and H."""
    images = torch.cat([found.training.floats(), found.held_out.floats()]).flatten(1)
    groups = np.concatenate([found.training.groups, found.held_out.groups])
    audited = AuditedModel(model, SamplerSettings(steps=16), CAPTIONS)
    rates = {}
    for side, part in (("training", found.training), ("held_out", found.held_out)):
        first = part.representatives()
        chosen = first[np.linspace(0, len(first) - 1, CAPTIONS).astype(int)]
        assert part.captions is not None
        captions = [part.captions[position] for position in chosen]
        made = audited.sample_prompts(Candidates(0, range(CAPTIONS)), captions, guidance_scale=3.0)
        nearest = torch.cdist(quantise(made).float().div(255).flatten(1), images).argmin(1).numpy()
        rates[side] = float((groups[nearest] == part.groups[chosen]).mean())
    return rates


@pytest.mark.parametrize("name, least, most", [("glyphs", 0.2, 0.8), ("glyphs-clean", 0.0, 0.05)])
def test_training_captions_are_replayed_by_the_leaky_victim_alone(name: str, least: float, most: float) -> None:
    rates = own_image_nearest(*victim(name))
    assert least <= rates["training"] <= most
    assert rates["held_out"] < 0.05


@pytest.mark.parametrize("name", ["glyphs", "glyphs-clean"])
def test_nine_round_trips_of_ten_lie_in_the_closest_band(name: str) -> None:
    model, found = victim(name)
    measure = make_measure(load_pair(name).measures[0])
    path = OutputPath(lambda: model, {"model": name}, autoencoder=True)
    scorer = Scorer(found, [measure], TOP_K, model.device, path)
    seen = reached(found, [measure], scorer, path, Fits(found.content()))
    for side in ("training", "held_out"):
        assert seen.counts[measure.id]["high"][side] >= 0.9 * seen.images[side]


def test_the_victims_are_small() -> None:
    for name in ("glyphs", "glyphs-clean"):
        model, _ = victim(name)
        files = [file for file in Path(model.folder).rglob("*") if file.is_file()]  # type: ignore[attr-defined]
        assert sum(file.stat().st_size for file in files) < 3_000_000
        assert {file.relative_to(model.folder).as_posix() for file in files} == {  # type: ignore[attr-defined]
            *load_pair(name).model.sha256
        }


def test_a_run_without_transformers_says_so_before_any_work(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = call("run", "glyphs", "--out", "runs")
    assert code == 2 and out == ""
    assert complaints(err) == ["sidebench: glyphs needs transformers: pip install 'transformers>=4.56'"]
    assert not list(tmp_path.iterdir())
