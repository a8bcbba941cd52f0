"""What a finished run writes: the pair's own fits booked apart, and nothing left of other numbers."""

from pathlib import Path
from typing import Any

import torch

from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.files import read_json
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.results.run_folder import RunFolder
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
    }
    assert not any(fit["kept"] for fit in costs["fits"].values()) and costs["results_seconds"] > 0
