"""A run behind a defence: attacks prepare and generate on the defended model, and pay for it."""

from pathlib import Path
from typing import Any

import torch
from local_plugin import as_file

from sidebench.benchmark.runs import runner
from sidebench.methods.defences.amg import AntiMemorizationGuidance


def test_attacks_prepare_and_generate_on_the_defended_model(finished: Any, tmp_path: Path, make_plan: Any) -> None:
    made = make_plan(
        tmp_path, defences=[as_file(AntiMemorizationGuidance, tmp_path)], attacks=("carlini-uncond", "side")
    )
    result = runner.execute(made)
    assert not result.failures and list(result.metrics.defences) == ["amg"]
    for unit in ("carlini-uncond.s0", "side.s0"):
        defended, plain = (torch.cat(list(run.candidate_images(unit, 16))) for run in (result.folder, finished.folder))
        assert not torch.equal(defended, plain)
    keys = [{file.name for file in run.shared_samples().folder.iterdir()} for run in (result.folder, finished.folder)]
    assert keys[0] and not keys[0] & keys[1], "synthetic images of the plain model must not pass for defended ones"
    for cost in result.metrics.costs:
        # 24 synthetic images, and 12 more that the trained classifier is asked about.
        images = 40 + (24 + 12 if cost.attack == "side" else 0)
        assert cost.flops["defence"] == images * 3 * (2 * 256 * 64 + 9 * 50 * 64)
