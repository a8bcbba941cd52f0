"""The measure against references out of the autoencoder: it sees the copies that a decoder blurs."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from output_path import Blurring, noise_references, path_of

from sidebench.benchmark.contracts import Measure
from sidebench.benchmark.data import fits
from sidebench.benchmark.data.fits import Fits
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.errors import BadInput, BadSetting, UnknownName
from sidebench.benchmark.measures.detector_audit import audit
from sidebench.benchmark.measures.hits import in_band
from sidebench.benchmark.measures.nl2 import NormalizedL2Combined
from sidebench.benchmark.measures.output_path import OutputPath
from sidebench.benchmark.measures.roundtrip import RoundTrip
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.registry import layers
from sidebench.benchmark.runs.plugins import check_autoencoder

NL2C, THROUGH = NormalizedL2Combined(["n5", "a0.5"]), RoundTrip(["nl2c", "n5", "a0.5"])
REFERENCES = noise_references()
LOSSY = Blurring(0.6)


def scorer_of(*measures: Measure, path: OutputPath | None = None) -> Scorer:
    return Scorer(REFERENCES, list(measures), 10, torch.device("cpu"), path or path_of(LOSSY))


def high(measure: Measure, images: torch.Tensor, side: str = "training") -> float:
    """Return the share of images whose best match lies in band high."""
    found = scorer_of(measure).score_finite(images, measure.space)
    return float(in_band(found.best_scores(measure, side), measure.bands[0], measure).mean())  # type: ignore[arg-type]


def test_a_perfect_copier_behind_a_lossy_autoencoder_is_found() -> None:
    copies, held_out = (
        path_of(LOSSY).once(torch.from_numpy(part.images))[0] for part in (REFERENCES.training, REFERENCES.held_out)
    )
    assert high(NL2C, copies) < 0.1 and high(THROUGH, copies) == 1
    assert (
        high(THROUGH, copies, "held_out") == 0 == high(THROUGH, held_out) and high(THROUGH, held_out, "held_out") == 1
    )


def test_scores_are_those_of_the_measure_inside_on_other_references() -> None:
    images = torch.from_numpy(REFERENCES.pool.images)
    found = scorer_of(THROUGH).score_finite(images, THROUGH.space)
    blurred = [
        ImageSet(path_of(LOSSY).once(torch.from_numpy(part.images))[0].numpy(), part.rows, part.groups)
        for part in (REFERENCES.training, REFERENCES.held_out)
    ]
    others = References(*blurred, REFERENCES.pool, REFERENCES.tuning, fingerprint="blurred")
    plain = Scorer(others, [NL2C], 10, torch.device("cpu")).score_finite(images, NL2C.space)
    for side in ("training", "held_out"):
        assert np.array_equal(found.best_scores(THROUGH, side), plain.best_scores(NL2C, side))  # type: ignore[arg-type]


def test_the_audit_sends_known_images_the_same_way() -> None:
    found = audit(REFERENCES, [NL2C, THROUGH], scorer_of(NL2C, THROUGH), 0, 16, kinds=("identical",))["measures"]
    for measure in (NL2C, THROUGH):
        (identical,) = found[measure.id]["copies"]
        assert identical["right"]["count"][found[measure.id]["thresholds"].index(0.5)] == 16, measure.id
        assert found[measure.id]["non_copies"]["any"]["count"][0] == 0


def test_its_id_and_space_spell_what_it_is() -> None:
    assert THROUGH.id == "roundtrip:nl2c:n5:a0.5" and THROUGH.space == "pixels-roundtrip"
    assert RoundTrip().id == "roundtrip:nl2c:n50:a0.5"
    assert THROUGH.bands == NL2C.bands and THROUGH.distance and THROUGH.neighbours == 5
    assert not RoundTrip(["zncc"]).distance
    assert [layer.id for layer in layers(THROUGH)] == [THROUGH.id, NL2C.id]
    with pytest.raises(BadInput, match=r"measure nl2c:n5:a0\.5: n = 5 neighbours of 20 images"):
        THROUGH.check(20, 20, False)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = project["entry-points"]["sidebench.measures"]["roundtrip"]
    assert registered == f"{RoundTrip.__module__}:{RoundTrip.__name__}"


@pytest.mark.parametrize(("options", "error"), [(["nl2c", "x3"], BadSetting), (["nl3"], UnknownName)])
def test_an_impossible_measure_inside_is_refused(options: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        RoundTrip(options)


def test_no_autoencoder_is_refused_in_one_line() -> None:
    for family in ("pixel", "mixture"):
        with pytest.raises(BadInput, match=r"^measure roundtrip:nl2c:n5:a0\.5: .* take nl2c:n5:a0\.5$"):
            check_autoencoder([NL2C, THROUGH], family)
    check_autoencoder([NL2C, THROUGH], "latent")
    check_autoencoder([NL2C], "pixel")
    with pytest.raises(BadInput, match="take nl2c"):
        Scorer(REFERENCES, [THROUGH], 10, torch.device("cpu"))


def test_round_trips_of_references_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(fits, "cache", lambda: tmp_path)
    models = [Blurring(0.6), Blurring(0.6), Blurring(0.5)]
    found = [
        scorer_of(THROUGH, path=path_of(model, fits=Fits(REFERENCES.content())))
        .reference_descriptors(THROUGH, "held_out")
        .read(slice(None))
        for model in models
    ]
    assert [model.calls for model in models] == [60, 0, 60]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
