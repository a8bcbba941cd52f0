"""Runs against controls with known truth measure that truth."""

from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from sidebench.benchmark.data.pair import load_pair
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
    band = closest_band(tmp_path, "control:mixture:0.03", 4096)
    # No pool image lies in the closest band of a training image, so the truth is the share itself.
    assert closest_band(tmp_path, "control:heldout", 4096).training.ams.count == 0
    assert binomtest(band.training.ams.count, 4096, 0.03).pvalue > 0.001
    assert band.training.ams.low <= 0.03 <= band.training.ams.high
