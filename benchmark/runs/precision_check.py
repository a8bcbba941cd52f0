"""Hold a run in float16, bfloat16 or with a compiled denoiser against float32: its first candidates are reproduced.

From the same noise and state. Rounding moves pixels at each of fifty steps; what counts is whether the same candidates
hit. What shows before any attack is prepared is refused earlier (`refuse_moved.py`); what is found here is flagged.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contracts import AttackState, Measure
from ..files import Put, read_state, write_atomic, write_state
from ..measures.hits import in_band
from ..measures.scorer import Scorer
from ..protocol import FLOAT32_CANDIDATES
from ..results.run_folder import RunFolder
from . import replay
from .makers import Maker

if TYPE_CHECKING:
    from .plan import RunPlan, Unit


def make_again(plan: "RunPlan", folder: RunFolder, unit: "Unit", maker: Maker, put: Put = write_atomic) -> None:
    """Make a unit's first candidates by `maker`, which has the run's model in float32, and store them.

    The state is the run's own, prepared in its precision. Where float32 does not fit into memory the reason is stored.
    """
    numbers = range(min(FLOAT32_CANDIDATES, plan.candidates))
    # No more rows at a time than are looked at: the rest of a batch would be computed for nothing.
    small = min(plan.batching.micro_batch, len(numbers))
    plan = replace(plan, batching=plan.batching.model_copy(update={"micro_batch": small}))
    try:
        images = replay.make_again(folder, plan, unit, maker, numbers).images
    except torch.OutOfMemoryError:
        found = AttackState({"images": torch.empty(0, dtype=torch.uint8)}, {"refused": "it does not fit into memory"})
    else:
        found = AttackState({"images": images}, {"refused": ""})
    write_state(folder.float32_file(unit.name), found, put)


def compare(folder: RunFolder, unit: str, measure: Measure, scorer: Scorer) -> dict[str, Any] | None:
    """Return how far float32 is off and how many candidates it decides otherwise; None where there was nothing to do.

    `largest` in uint8 levels, `share_off` the share of values that are off by more than one level, `decided_otherwise`
    the candidates whose best training match lies in another band of the headline measure, or in none.
    """
    file = folder.float32_file(unit)
    if not file.exists():
        return None
    stored = read_state(file)
    again = stored.tensors["images"]
    if stored.info["refused"]:
        return {"candidates": 0, "refused": stored.info["refused"]}
    first = torch.cat(list(folder.candidate_images(unit, len(again))))
    off = (again.int() - first.int()).abs()
    ours, theirs = (bands_hit(images, measure, scorer) for images in (first, again))
    return {
        "candidates": len(again),
        "refused": "",
        "largest": int(off.max()),
        "share_off": float((off > 1).float().mean()),
        "decided_otherwise": int((ours != theirs).any(axis=1).sum()),
    }


def bands_hit(images: torch.Tensor, measure: Measure, scorer: Scorer) -> np.ndarray:
    """Return (N, bands) bool: the best training match lies in the band."""
    scores = scorer.score_finite(images, measure.space)
    best = scores.best_scores(measure, "training")
    found = [in_band(best, band, measure) for band in measure.bands]
    return np.stack(found, axis=1) if found else np.zeros((len(images), 0), dtype=bool)
