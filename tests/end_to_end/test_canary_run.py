"""Canaries of the glyphs from pair to exposures, among fewer strings than a user's run has."""

import dataclasses
from pathlib import Path

import pytest

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.protocol import SamplerSettings
from sidebench.benchmark.reports.tables import verdicts
from sidebench.benchmark.runs import canaries, runner
from sidebench.benchmark.runs.plan import RunPlan, plan_run

pytest.importorskip("transformers")


def test_a_run_ranks_every_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "OTHERS", 40)
    settings = {"canary-replay": {"guidance_scale": 1}}
    with pytest.raises(BadInput, match="canary-replay replays canaries, and pair glyphs-clean has none"):
        plan_run(load_pair("glyphs-clean"), attacks=["canary-replay"], candidates=8, device="cpu", out=tmp_path)

    def planned(candidates: int) -> RunPlan:
        plan = plan_run(
            load_pair("glyphs"),
            attacks=["canary-replay"],
            candidates=candidates,
            device="cpu",
            out=tmp_path,
            measures=["nl2c:n50:a0.5"],
            settings=settings,
        )
        return dataclasses.replace(
            plan, protocol=plan.protocol.model_copy(update={"sampler": SamplerSettings(steps=1)})
        )

    with pytest.raises(TooFew, match=r"103 candidates are too few for canary-replay: it sends 104 strings, 1 each"):
        runner.execute(planned(103))
    result = runner.execute(planned(104))
    assert result.metrics is not None and not result.failures
    (found,) = result.metrics.exposures
    assert [each.copies for each in found.by_copies] == [0, 1, 2, 4, 8] and found.others == 40
    assert "planted strings have an exposure of" in verdicts(result.metrics)[0]
    assert result.metrics.own_images == [] and result.metrics.caption_flags == []
    for file in result.folder.path.rglob("*.json"):
        assert "0uy3klznf89j9cp0" not in file.read_text(encoding="utf-8"), "a canary is nobody's business"
