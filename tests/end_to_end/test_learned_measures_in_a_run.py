"""A run by measures that read a network records which network that was."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_networks import CLIP, DINO, tiny_clip, tiny_dinov2

from sidebench.benchmark.measures import fetch_weights, weights
from sidebench.benchmark.runs import runner

pytest.importorskip("transformers")


def test_a_run_by_learned_measures_records_their_hashes(
    tmp_path: Path, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    fetch_weights.bring_in(f"dinov2_small={tiny_dinov2(tmp_path / 'dinov2')}")
    fetch_weights.bring_in(f"clip_vit-base-patch32={tiny_clip(tmp_path / 'clip')}")
    plan = make_plan(tmp_path / "runs", attacks=("carlini-uncond",), measures=[DINO, CLIP, "tile_l2:2x2:max"])
    result = runner.execute(plan)
    assert result.metrics is not None and not result.failures
    manifest = json.loads((result.folder.path / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["identity"]["measure_weights"]) == {"dinov2_small", "clip_vit-base-patch32"}
    assert str(tmp_path) not in json.dumps(manifest)
