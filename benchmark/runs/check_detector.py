"""The checks that every detector must pass, built-in or not.

    from sidebench import check_detector, ModelSpec
    check_detector("./mine.py:MyDetector", {}, ModelSpec(family="text", location="zoo:glyphs"))

Each check raises `NotConformant` with what was seen. How well a detector detects is no part of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts import Detector, Model, ModelSpec
from ..errors import BadInput
from ..models import load_model
from ..models.flops import OperationCount
from ..protocol import Sampling
from ..registry import make_detector
from ..sampling.views import AuditedModel
from .check_attack import COST_TOLERANCE, SEED, NotConformant, quick_sampling
from .detect import call_detector
from .fresh_processes import fresh_processes

PROMPTS = (
    "a house by a lake",
    "two dogs",
    "a portrait of somebody",
    "B",
    "Łódź, 東京",
    "one word after another " * 40,
)
"""Prompts of all lengths; the last is longer than text encoders take."""

CLOSE = 1e-4
"""Two numbers of one prompt agree this far, relative to the largest: rows of a batch may round otherwise."""


def check_detector(name: str, settings: dict[str, Any], spec: ModelSpec, sampling: Sampling | None = None) -> None:
    """Run every check for a detector (a registered name, or `file.py:Class`) on a text-to-image model.

    Raises:
        NotConformant: a check failed; the message says which and what was seen.
        BadInput: the model takes no prompts, or lacks the cross-attention that the detector reads.
        AttackFailed: the detector raised, or returned something else than a finite number for each prompt.
    """
    sampling = sampling or quick_sampling()
    detector, model = make_detector(name, settings), load_model(spec)
    if model.conditioning != "text":
        raise BadInput(f"{detector.name}: detectors score prompts, and a model of family {spec.family} takes none")
    if detector.attends:
        model.prompt_tokens([""])
    scores = check_prompts(detector, model, sampling)
    check_cost(detector, model, sampling)
    check_process(name, settings, spec, sampling, scores)


def check_prompts(detector: Detector, model: Model, sampling: Sampling) -> np.ndarray:
    """A prompt's number is the same in any company, in any order, and when it is asked for again; returns them."""
    whole = _scores(detector, model, PROMPTS, sampling)
    every = list(range(len(PROMPTS)))
    for rows, said in ((every, "again"), (every[::-1], "in another order"), ([1], "alone"), ([4, 0], "with fewer")):
        found = _scores(detector, model, [PROMPTS[row] for row in rows], sampling)
        _same(detector.name, found, whole[rows], f"scored {said}, {PROMPTS[rows[0]]!r}")
    return whole


def check_cost(detector: Detector, model: Model, sampling: Sampling) -> None:
    """The model reports no less work than the operations that torch counts, derivatives apart."""
    view = _Apart(model, sampling.sampler, sampling.micro_batch)
    with OperationCount() as counter:
        call_detector(detector, view, [f"prompt {number}" for number in range(sampling.micro_batch)], SEED)
    nfe = sum(view.ledger.nfe.values()) - view.derived_nfe
    counted, reported = counter.total - view.derived, nfe * model.flops_per_sample() + sum(view.ledger.flops.values())
    if counted > (1 + COST_TOLERANCE) * reported:
        raise NotConformant(
            f"{detector.name}: reports {reported:.3g} operations where torch counts {counted:.3g}; "
            f"report work outside the denoiser with model.charge(flops)"
        )


class _Apart(AuditedModel):
    """A view that counts derivatives apart: what one takes depends on the layers, not on the detector."""

    derived, derived_nfe = 0.0, 0

    def differentiate(self, x_t: Tensor, t: Tensor, along: Tensor, condition: Tensor | None = None) -> Tensor:
        before = sum(self.ledger.nfe.values())
        with OperationCount() as counter:
            found = super().differentiate(x_t, t, along, condition)
        self.derived += counter.total
        self.derived_nfe += sum(self.ledger.nfe.values()) - before
        return found


def check_process(name: str, settings: dict[str, Any], spec: ModelSpec, sampling: Sampling, scores: np.ndarray) -> None:
    """Another process finds the same numbers: nothing rests on the hash of a string or on what was drawn before."""
    with fresh_processes(spec.device).Pool(1) as pool:
        found = pool.apply(_work, (name, settings, spec, sampling, torch.get_num_threads()))
    _same(name, found, scores, f"in another process {PROMPTS[0]!r}")


def _work(name: str, settings: dict[str, Any], spec: ModelSpec, sampling: Sampling, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    return _scores(make_detector(name, settings), load_model(spec), PROMPTS, sampling)


def _scores(detector: Detector, model: Model, prompts: Sequence[str], sampling: Sampling) -> np.ndarray:
    return call_detector(detector, AuditedModel(model, sampling.sampler, sampling.micro_batch), prompts, SEED)


def _same(name: str, found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    off = np.abs(found - wanted)
    if off.max() > CLOSE * max(1e-12, float(np.abs(wanted).max())):
        first = int(off.argmax())
        raise NotConformant(
            f"{name}: {what} and others have other numbers ({found[first]:.6g}, was {wanted[first]:.6g}); draw from "
            f"`candidates`, and let no prompt's number depend on another prompt"
        )
