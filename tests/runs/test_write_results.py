"""What a finished run writes: the pair's own fits booked apart, and nothing left of other numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sidebench.benchmark import environment
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.files import read_json
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.reports.screen import first_screen
from sidebench.benchmark.reports.tables import probe_flags
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import load_metrics
from sidebench.benchmark.runs.write_results import write_results


def test_results_are_written_anew_and_old_figures_removed(copied: Path, make_plan: Any) -> None:
    names = ("metrics.json", "audit.json", "quality.json")
    before = [(copied / name).read_bytes() for name in names]
    for name in ("copying.json", "report.html"):
        (copied / name).write_text("of other numbers", encoding="utf-8")
    plan = make_plan(copied.parent)
    references = load_references(plan.pair)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, torch.device("cpu"))
    units = [(unit.name, unit.attack.name, unit.seed) for unit in plan.units]
    write_results(plan, RunFolder(copied), units, references, scorer)
    assert [(copied / name).read_bytes() for name in names] == before
    assert not (copied / "copying.json").exists() and not (copied / "report.html").exists()
    costs = read_json(copied / "costs.json")
    assert set(costs["fits"]) == {
        "two-sample check of the control",
        "held-out images that are turned training images",
        "audit of the detector",
        "moments of real images",
        "radii of real images",
        "quality of training images",
        "quality of some training images",
    }
    assert not any(fit["kept"] for fit in costs["fits"].values()) and costs["results_seconds"] > 0


def test_a_run_that_goes_on_in_a_changed_checkout_is_flagged(
    copied: Path, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = make_plan(copied.parent), RunFolder(copied)
    assert probe_flags(folder) == [] and read_json(copied / "costs.json")["mixed_environment"] is False
    metrics, references = load_metrics(folder), load_references(plan.pair)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, torch.device("cpu"))
    units = [(unit.name, unit.attack.name, unit.seed) for unit in plan.units]
    # The version is the same, a line of the package is not.
    monkeypatch.setattr(environment, "package_code", lambda: "0" * 64)
    write_results(plan, folder, units, references, scorer)
    assert read_json(copied / "costs.json")["mixed_environment"] is True
    (flag,) = probe_flags(folder)
    assert "other code of sidebench" in flag and flag in " ".join(first_screen(folder, metrics).split())
