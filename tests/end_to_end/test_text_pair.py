"""A text-to-image pair with captions of the user's own, from the model's folder to metrics."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_repositories import captioned_pair, text_pipeline

from sidebench.benchmark.contracts import ModelSpec
from sidebench.benchmark.data import image_cache
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.files import read_json, read_state, read_table
from sidebench.benchmark.reports.tables import text_tables
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.check_attack import check_attack
from sidebench.benchmark.runs.plan import plan_run
from sidebench.leaderboards.figures_again import check_figures

pytest.importorskip("transformers")


REPLAYING = [("prompt-replay", {"seeds": 2}), ("carlini-cliques", {"images": 3}), ("canary-replay", {"seeds": 2})]
FILTERED = [(name, {"seeds": 1, "images": 2, "kept": 0.7}) for name in ("webster-one-step", "webster-edges")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_pipeline(tmp_path_factory.mktemp("text") / "sd")


@pytest.mark.parametrize(("attack", "settings"), [*REPLAYING, *FILTERED])
def test_attacks_that_replay_captions_conform(attack: str, settings: dict[str, Any], folder: Path) -> None:
    check_attack(attack, settings, ModelSpec(family="text", location=str(folder)))


def test_a_run_with_captions_of_the_users_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    pair = captioned_pair(
        tmp_path,
        14,
        12,
        folder,
        measures=["nl2:n1:a0.5", "roundtrip:nl2:n1:a0.5"],
        protocol={"micro_batch": 2, "sampler": {"steps": 2}},
        attacks={"prompt-replay": {"origin": "untuned"}},
    )
    bare = pair.model_copy(update={"data": pair.data.model_copy(update={"captions": None})})
    with pytest.raises(BadInput, match="replays captions, and pair own has none: give it data"):
        plan_run(bare, candidates=4, device="cpu", out=tmp_path / "runs")
    with pytest.raises(BadInput, match="side works on models with conditioning class, none, not text"):
        plan_run(pair, attacks=["side"], candidates=4, device="cpu", out=tmp_path / "runs")
    settings = {"prompt-replay": {"seeds": 1}, "carlini-cliques": {"images": 3, "guidance_scale": 1}}
    names = list(settings)
    with pytest.raises(TooFew, match="2 candidates are too few for carlini-cliques: it needs 3"):
        plan_run(pair, attacks=names, candidates=2, device="cpu", settings=settings)
    plan = plan_run(pair, attacks=names, candidates=24, device="cpu", out=tmp_path / "runs", settings=settings)
    result = runner.execute(plan)
    assert result.metrics is not None and not result.failures
    manifest = json.loads((result.folder.path / "manifest.json").read_text(encoding="utf-8"))
    # Random weights return noise for noise, and a flag says that no copy would be seen; round trips are all seen.
    high = {row.measure: row.training for row in result.metrics.reach if row.band == "high"}
    pixels, through = (high[name] for name in ("nl2:n1:a0.5", "roundtrip:nl2:n1:a0.5"))
    assert pixels is not None and through is not None and (pixels.value < 0.5, through.value) == (True, 1)
    assert any("a perfect copy would be called clean" in flag for flag in result.metrics.flags)
    assert "reach: what the measure can see" in text_tables(result.metrics)
    assert manifest["components_left_out"] == ["safety_checker"]
    # Every caption of either side is replayed once, in an order that says nothing of sides; the harness keeps which.
    stored = read_state(result.folder.images_file("prompt-replay.s0", shard_of(range(24)))).tensors
    sent, table = stored["caption"].tolist(), read_table(result.folder.references_file)
    assert stored["column_prompt"].tolist() == list(range(24)) and len(set(sent)) == 24
    side = dict(zip(table["caption"].to_pylist(), table["side"].to_pylist(), strict=True))
    assert set(sent) < set(side) and {side[caption] for caption in sent[:8]} == {"training", "held_out"}
    assert manifest["units"]["prompt-replay.s0"]["version"] == 2
    rated = read_table(result.folder.captions_file("carlini-cliques.s0", 24))
    assert len(rated) == 8 and {side[caption] for caption in rated["caption"].to_pylist()} == {"training", "held_out"}
    (flags,) = result.metrics.caption_flags
    assert flags.attack == "carlini-cliques" and "1 in 50 cannot be calibrated" in flags.refused
    assert [link.attack for link in result.metrics.own_images] == names
    figures = read_json(result.folder.path / "quality.json")["prompt-replay.s0"]
    assert {"frechet_distance_latents", "caption_accuracy", "held_out_caption_accuracy"} <= set(figures)
    check_figures(result.folder, result.metrics)
    for file in result.folder.path.rglob("*.json"):
        assert "picture number" not in file.read_text(encoding="utf-8"), file
