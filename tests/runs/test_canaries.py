"""Canaries: ranks against others by hand, chance where nothing was planted, and a run from pair to exposures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.files import write_table
from sidebench.benchmark.protocol import SamplerSettings
from sidebench.benchmark.results.exposures import exposure
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import Exposure
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.canaries import OTHERS, Canaries, Ranks, canaries_of, ranked
from sidebench.benchmark.runs.plan import plan_run

UNIT = "canary-replay.s0"
PLANTED = 12
"""As many as matched strings."""


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def given() -> Canaries:
    images = noise(2 * PLANTED, 0)[:, 0].numpy()
    copies = np.repeat([4, 0], PLANTED)
    return Canaries([f"{place:04}" for place in range(200)], np.arange(2 * PLANTED), images, copies)


def bits(folder: Path, ranks: Ranks) -> Exposure:
    import pyarrow as pa

    run = RunFolder(folder)
    run.write_manifest({"units": {UNIT: {"filter": {"kind": "canaries"}}}})
    write_table(run.captions_file(UNIT, 8), pa.table(ranks._asdict()))
    found = exposure(run, UNIT, "canary-replay", 0, 8)
    assert found is not None
    return found


def test_a_model_that_returns_planted_images_ranks_them_first(tmp_path: Path) -> None:
    canaries, made = given(), dict(enumerate(noise(200, 1)))
    for place in range(PLANTED):
        made[place] = torch.from_numpy(canaries.images[place])[None]
    ranks = ranked(canaries, made)
    assert ranks.nearer[:PLANTED].tolist() == [0] * PLANTED and set(ranks.others) == {200 - 2 * PLANTED}
    found = bits(tmp_path, ranks)
    assert found.planted.value == pytest.approx(np.log2(177)) and found.by_copies[1].log2_rank == 0
    assert found.difference is not None and found.difference.low > 4 and found.p is not None and found.p < 0.001


def test_without_a_leak_ranks_are_uniform_and_planted_strings_no_different(tmp_path: Path) -> None:
    """The negative control: what the model makes has nothing to do with the string."""
    ranks = [ranked(given(), dict(enumerate(noise(200, seed)))) for seed in range(2, 12)]
    nearer = np.concatenate([each.nearer for each in ranks])
    assert 0.4 < nearer.mean() / 176 < 0.6
    assert np.mean(np.log2(177) - np.log2(nearer + 1)) == pytest.approx(1.44, abs=0.3)
    found = bits(tmp_path, ranks[0])
    assert found.difference is not None and found.difference.low < 0 < found.difference.high


def test_the_strings_of_the_glyphs_are_as_they_were_planted() -> None:
    canaries = canaries_of(load_pair("glyphs"), (16, 16, 1))
    assert len(canaries.texts) == 64 + OTHERS and canaries.texts == sorted(set(canaries.texts))
    assert {len(text) for text in canaries.texts} == {16}
    assert np.unique(canaries.copies, return_counts=True)[1].tolist() == [32, 8, 8, 8, 8]


def test_a_run_ranks_every_canary(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    settings = {"canary-replay": {"guidance_scale": 1}}
    with pytest.raises(BadInput, match="canary-replay replays canaries, and pair glyphs-clean has none"):
        plan_run(load_pair("glyphs-clean"), attacks=["canary-replay"], candidates=8, device="cpu", out=tmp_path)

    def planned(candidates: int) -> runner.RunPlan:
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

    with pytest.raises(TooFew, match=r"1,063 candidates are too few for canary-replay: it sends 1,064 strings, 1 each"):
        runner.execute(planned(1063))
    result = runner.execute(planned(1064))
    assert result.metrics is not None and not result.failures
    (found,) = result.metrics.exposures
    assert [each.copies for each in found.by_copies] == [0, 1, 2, 4, 8] and found.others == OTHERS
    assert result.metrics.own_images == [] and result.metrics.caption_flags == []
    for file in result.folder.path.rglob("*.json"):
        assert "0uy3klznf89j9cp0" not in file.read_text(encoding="utf-8"), "a canary is nobody's business"
