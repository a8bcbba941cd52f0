"""Refuse a run in lower precision, or with a compiled denoiser, whose first candidates do not hit as in float32.

When a folder is opened, the first candidates of an attack without a preparation are made both ways, before anything is
spent. What only a prepared attack would show is compared at its end, and flagged (`precision_check.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .. import environment
from ..candidates import Candidates
from ..contracts import AttackState
from ..data.references import load_references
from ..errors import AttackFailed, BadSetting
from ..files import read_json, write_checked_json
from ..measures.scorer import Scorer
from ..models.pair_from_names import FIRST_ATTACK
from ..protocol import FLOAT32_CANDIDATES
from ..registry import make_attack
from ..results.run_folder import RunFolder
from .generate import in_float32, named_failures
from .makers import Makers
from .plan import RunPlan, Unit
from .precision_check import bands_hit
from .victim import output_path


def refuse_moved(plan: RunPlan, folder: RunFolder) -> None:
    """Refuse a run whose precision, or compiled denoiser, decides one of the first candidates otherwise than float32.

    Looked at before an image is made, and once for as many candidates of that attack under that measure; the references
    that decide are dropped before an attack is called.

    Raises:
        BadSetting: a candidate falls into another band of the headline measure, or torch cannot compile the denoiser.
    """
    unit = _plain_unit(plan)
    if unit is None or not plan.rounds_otherwise():
        return
    subject = {
        "way": {"dtype": plan.model.dtype, "compiled": plan.batching.compiled},
        "unit": unit.description(),
        "measure": plan.measures[0].id,
    }
    known = read_json(folder.precision_file) if folder.precision_file.exists() else {}
    if not _answers(known, subject, len(_looked_at(plan))):
        if any(folder.has_made(each.name) for each in plan.units):
            return
        known = {**subject, **_moved(plan, unit)}
        write_checked_json(folder.precision_file, known)
    if known["moved"]:
        way_out = "--compile" if plan.model.dtype == "float32" else "--dtype"
        raise BadSetting(
            f"{_named(plan)} decides {len(known['moved'])} of {known['candidates']} candidates otherwise than float32 "
            f"({unit.name}, candidate {known['moved'][0]} for one), so hits would be others: leave {way_out} out"
        )


def _answers(known: Mapping[str, Any], subject: Mapping[str, Any], candidates: int) -> bool:
    """Return whether an earlier finding is about the same, and about as many candidates unless some moved already."""
    same = all(known.get(key) == value for key, value in subject.items())
    return same and bool(known["moved"] or known["candidates"] >= candidates)


def _looked_at(plan: RunPlan) -> range:
    """Return the numbers of the candidates that are made both ways."""
    return range(min(FLOAT32_CANDIDATES, plan.candidates))


def _named(plan: RunPlan) -> str:
    ways = [*([plan.model.dtype] if plan.model.dtype != "float32" else []), *(["compiling"] * plan.batching.compiled)]
    return " with ".join(ways)


def _plain_unit(plan: RunPlan) -> Unit | None:
    """Return a unit that generates without a preparation: one of the plan's, or plain sampling; None where neither is.

    A model that takes text is given none by plain sampling.
    """
    for unit in plan.units:
        if not unit.attack.prepares():
            return unit
    if plan.model.family == "text":
        return None
    return Unit(make_attack(FIRST_ATTACK["none"], {}), plan.units[0].seed)


def _moved(plan: RunPlan, unit: Unit) -> dict[str, Any]:
    """Return how many candidates were made both ways, and the numbers of those that are decided otherwise.

    Raises:
        BadSetting: only the compiled denoiser fails.
    """
    numbers = _looked_at(plan)
    try:
        theirs = _plain(in_float32(plan), unit, numbers)
    except AttackFailed as error:  # said by the run itself, which goes on with the others
        return {"candidates": 0, "moved": [], "refused": str(error)}
    try:
        ours = _plain(plan, unit, numbers)
    except AttackFailed as error:
        if plan.batching.compiled:
            raise BadSetting(f"--compile: {error}; without it there is no such error: leave it out") from error
        return {"candidates": 0, "moved": [], "refused": str(error)}
    measure, references = plan.measures[0], load_references(plan.pair)
    device = environment.pick_device(plan.model.device)
    scorer = Scorer(references, [measure], plan.protocol.top_k, device, output_path(plan, references))
    off = bands_hit(ours, measure, scorer) != bands_hit(theirs, measure, scorer)
    return {"candidates": len(numbers), "moved": np.flatnonzero(off.any(axis=1)).tolist(), "refused": ""}


def _plain(plan: RunPlan, unit: Unit, numbers: range) -> torch.Tensor:
    """Return a unit's candidates from a model that is loaded for them, uint8 N x C x H x W."""
    makers = Makers(replace(plan, units=(unit,)))
    sampling = plan.sampling.model_copy(update={"micro_batch": min(plan.batching.micro_batch, len(numbers))})
    maker = makers.of(unit)
    try:
        with named_failures(plan, unit):
            return maker.generate(unit, AttackState(), Candidates(unit.seed, numbers), sampling).images
    finally:
        makers.close()
