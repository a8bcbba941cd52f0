"""Runs against controls with known truth measure that truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch.nn.functional import avg_pool2d, interpolate

from sidebench.benchmark import models
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.reports.tables import verdicts
from sidebench.benchmark.reports.verdict import headline
from sidebench.benchmark.results.schema import BandResult
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run


def closest_band(out: Path, model: str, candidates: int = 1024, **options: Any) -> BandResult:
    plan = plan_run(
        load_pair("digits"),
        attacks=["carlini-uncond"],
        candidates=candidates,
        model=model,
        out=out,
        device="cpu",
        **options,
    )
    metrics = runner.execute(plan).metrics
    assert metrics is not None
    return metrics.results[0].bands[0]


def test_copycat_scores_everything(tmp_path: Path) -> None:
    band = closest_band(tmp_path, "control:copycat", 300)
    assert band.training.ams.count == 300
    assert band.training.ums_best.count > 100


def test_replayer_of_the_pool_has_no_excess(tmp_path: Path) -> None:
    band = closest_band(tmp_path, "control:heldout")
    assert band.excess.low <= 0 <= band.excess.high


def test_mixture_is_found_at_its_share(tmp_path: Path) -> None:
    band = closest_band(tmp_path, "control:mixture:0.03", 2048)
    # No pool image lies in the closest band of a training image, so the truth is the share itself.
    assert closest_band(tmp_path, "control:heldout", 2048).training.ams.count == 0
    assert binomtest(band.training.ams.count, 2048, 0.03).pvalue > 0.001
    assert band.training.ams.low <= 0.03 <= band.training.ams.high


def behind(monkeypatch: pytest.MonkeyPatch, decoder: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let every model that is loaded send its samples through a decoder that is not exact."""
    load = models.load_model

    def changed(spec: Any) -> Any:
        model = load(spec)
        decode = model.decode
        monkeypatch.setattr(model, "decode", lambda x_0: decoder(decode(x_0)), raising=False)
        return model

    monkeypatch.setattr(models, "load_model", changed)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Lose 0.4 of each pixel's difference from its block of 2 x 2, as an autoencoder loses detail."""
    return images + 0.4 * (interpolate(avg_pool2d(images, 2), scale_factor=2) - images)


def noisy(images: torch.Tensor) -> torch.Tensor:
    """Add the noise at which a tenth of the copies is still in the closest band."""
    return (images + 0.12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.mark.parametrize("decoder", [blurred, noisy])
def test_a_copier_whose_hits_lie_in_the_wider_bands_is_called_leaking_in_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    behind(monkeypatch, decoder)
    options: dict[str, Any] = {"model": "control:copycat", "out": tmp_path, "device": "cpu"}
    plan = plan_run(load_pair("digits"), attacks=["carlini-uncond"], candidates=256, **options)
    metrics = runner.execute(plan).metrics
    assert metrics is not None
    closest, widest = metrics.results[0].bands[0], metrics.results[0].bands[-1]
    assert closest.training.ams.value < 0.1 and widest.training.ams.value > 0.8
    assert headline(metrics).title == "digits gives training images away"
    (line,) = verdicts(metrics)
    assert "finds training images" in line and "high+mid+low (p = 0.0001" in line
