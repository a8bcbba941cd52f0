"""`sidebench bench`: speed as ratios within one process, since machines are noisy.

Each figure is the smallest of several interleaved repetitions, the one least disturbed by others.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import environment
from ..candidates import Candidates
from ..contracts import Budget, Model, Step
from ..data.pair import Pair
from ..data.products import BLOCK
from ..errors import BadInput
from ..models import load_model
from ..models.find_model import find_model
from ..progress import silent
from ..protocol import SHARD, TOP_K, Sampling, default_measures
from ..registry import make_attack, make_measure
from ..results.checkpoints import MemoryCheckpoints
from ..sampling.call_attack import prepare_attack
from ..sampling.sampler import sample_latents
from ..sampling.views import AuditedModel
from . import ratios
from .batching import sampling_of

if TYPE_CHECKING:
    from ..data.fits import Fits
    from ..data.references import References
    from ..measures.scorer import Scorer

REPETITIONS = 3

END_OVER_SCORING = 2.0
"""Time of what a run does after it has scored its candidates over that of scoring them, at most."""


def measure(pair: Pair, device: str = "auto", attack: str | None = None, compiled: bool = False) -> dict[str, Any]:
    """Return the figures for a pair's model on this machine, and each ratio that has a limit."""
    spec = find_model(pair, None, Path()).spec.model_copy(update={"device": str(environment.pick_device(device))})
    model = load_model(spec)
    sampling = sampling_of(pair, model, SHARD)
    figures: dict[str, Any] = {
        "pair": pair.name,
        "device": spec.device,
        "micro_batch": sampling.micro_batch,
        "threads": torch.get_num_threads(),
        **_sampling(model, sampling),
    }
    if attack is not None:
        figures |= _guided(pair, model, sampling, attack)
    held = [
        *ratios.of_sampling(model, sampling, REPETITIONS, compiled),
        *ratios.of_search(model.device, REPETITIONS),
    ]
    figures["ratios"] = [ratio._asdict() for ratio in held]
    figures["peak_memory_gb"] = environment.peak_memory() / 1e9
    return figures


def scoring(candidates: int, references: int, device: str = "auto") -> dict[str, Any]:
    """Return the figures of scoring random images of 32 x 32 x 3 against `references` of them on either side.

    End to end as in a run, shard by shard, by the default measures; the plain matrix product is that of one
    shard's descriptors with both sides' on as many threads. Then what ends a run: what depends on the candidates, and
    apart from it what is fitted once per pair, kept or not. Peak memory is that of the process up to there.
    """
    from ..data.fits import Fits
    from ..measures.scorer import Scorer
    from ..measures.shard_scores import SIDES

    rng = np.random.default_rng(0)
    known = _random_references(rng, references)
    measures = [make_measure(name) for name in default_measures(32 * 32)]
    for chosen in measures:
        chosen.check(references, references, False)
    where = environment.pick_device(device)
    scorer = Scorer(known, measures, TOP_K, where)
    shards = torch.from_numpy(rng.integers(0, 256, (candidates, 3, 32, 32), dtype=np.uint8)).split(SHARD)
    queries = measures[0].descriptors(shards[0].to(where).float() / 255)

    block = scorer.reference_descriptors(measures[0], "training").read(slice(BLOCK))

    def score(shard: torch.Tensor) -> None:
        scorer.score_finite(shard, measures[0].space)

    def product() -> None:
        for _ in SIDES:
            for start in range(0, references, BLOCK):
                torch.mm(queries, block[: references - start].T)

    alone, whole = ratios.smallest(where, REPETITIONS, product, lambda: score(shards[0]))
    began, busy = time.perf_counter(), time.process_time()
    for shard in shards:
        score(shard)
    spent, busy = time.perf_counter() - began, time.process_time() - busy
    peak = environment.peak_memory()
    end, busy_end = _end(shards, known, scorer, Fits(known.content()))
    on_cpu = where.type == "cpu"
    ours, theirs = (busy_end, busy) if on_cpu else (end["end_seconds"], spent)
    return {
        "device": str(where),
        "threads": torch.get_num_threads(),
        "candidates": candidates,
        "references_a_side": references,
        "scoring_seconds": spent,
        "scoring_share_of_matrix_product": alone / whole,
        "peak_memory_gb": peak / 1e9,
        **end,
        "end_over_scoring": end["end_seconds"] / spent,
        "end_peak_memory_gb": environment.peak_memory() / 1e9,
        "ratios": [ratios.judged("end of a run", "scoring", END_OVER_SCORING, ours, theirs)._asdict()],
    }


def _random_references(rng: np.random.Generator, references: int) -> "References":
    """Return random images on both sides, no two of them near-duplicates."""
    from ..data.image_cache import fingerprint
    from ..data.references import ImageSet, References

    images = rng.integers(0, 256, (2 * references, 3, 32, 32), dtype=np.uint8)
    every = ImageSet(images, np.arange(len(images)), np.arange(len(images)))
    sides = np.split(every.rows, 2)
    none = every.take(every.rows[:0])
    return References(every.take(sides[0]), every.take(sides[1]), none, none, fingerprint(images))


def _end(
    shards: Sequence[torch.Tensor], known: "References", scorer: "Scorer", fits: "Fits"
) -> tuple[dict[str, float], float]:
    """Time what a run does with these candidates after they were scored, and what it fits to its pair meanwhile.

    The processor seconds of the former stand beside it.
    """
    from ..measures import image_quality
    from ..measures.pair_checks import audit_of_pair, control_of_pair

    began, busy = time.perf_counter(), time.process_time()
    control_of_pair(known, fits)
    audit_of_pair(known, scorer.measures, scorer, fits)
    image_quality.assess({"candidates": iter(shards)}, known, fits)
    spent, busy = time.perf_counter() - began, time.process_time() - busy
    new = [fit for fit in fits.spent.values() if not fit.kept]
    made = sum(fit.seconds for fit in new)
    found = {
        "end_seconds": spent - made,
        "pair_fits_seconds": made,
        "pair_fits_kept_seconds": sum(fit.seconds for fit in fits.spent.values() if fit.kept),
    }
    return found, busy - sum(fit.processor_seconds for fit in new)


def as_text(figures: dict[str, Any]) -> str:
    """Return the figures, a line each."""
    from tabulate import tabulate

    rows = [
        (name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else value)
        for name, value in figures.items()
        if name != "ratios"
    ]
    text = tabulate(rows, tablefmt="plain", disable_numparse=True)
    held = [ratios.Ratio(**ratio) for ratio in figures.get("ratios", [])]
    return f"{text}\n\n{ratios.as_text(held)}" if held else text


def _sampling(model: Model, sampling: Sampling) -> dict[str, float]:
    """Time the denoiser alone against the whole loop over one micro-batch."""
    rows, steps = sampling.micro_batch, sampling.sampler.steps
    x = torch.randn(rows, *model.sample_shape, device=model.device)
    times = torch.linspace(model.num_train_timesteps - 1, 0, steps).long().to(model.device)

    @torch.no_grad()
    def denoiser() -> None:
        for t in times:
            model.predict(x, t.expand(rows))

    def loop() -> None:
        sample_latents(model, Candidates(0, range(rows)), sampling.sampler, rows)

    alone, whole = ratios.smallest(model.device, REPETITIONS, denoiser, loop)
    return {
        "denoiser_seconds": alone,
        "loop_seconds": whole,
        "loop_overhead_percent": 100 * (whole - alone) / alone,
        "candidates_per_second": rows / whole,
    }


def _guided(pair: Pair, model: Model, sampling: Sampling, name: str) -> dict[str, float]:
    """Time an attack's candidates against plain ones, with a state prepared in small."""
    defaults = dict(pair.attacks[name].settings) if name in pair.attacks else {}
    attack = make_attack(name, defaults)
    small = {"synthetic_images": 256, "clusters": 8, "training_steps": 2}
    quick = {key: value for key, value in small.items() if key in attack.Settings.model_fields}
    attack = make_attack(name, {**defaults, **quick})
    budget = Budget(0, sampling.micro_batch, MemoryCheckpoints(), silent)
    state = prepare_attack(attack, model, sampling, budget).state
    captured: list[Any] = []

    class Capturing(AuditedModel):
        def sample(self, candidates: Candidates, **options: Any) -> torch.Tensor:
            captured.append(options.get("steer"))
            return super().sample(candidates, **options)

    watched = Capturing(model, sampling.sampler, sampling.micro_batch)
    batch = Candidates(0, range(sampling.micro_batch))
    attack.generate(watched, state, batch)
    steer = captured[-1]
    if steer is None:
        raise BadInput(f"{name} does not steer, so it has no guided step to time")
    rows = torch.arange(sampling.micro_batch)
    x = torch.randn(sampling.micro_batch, *model.sample_shape, device=model.device)
    t = torch.tensor(500, device=model.device)

    def parts() -> None:
        for _ in range(sampling.sampler.steps):
            with torch.no_grad():
                prediction = model.predict(x, t.expand(len(x)))
            steer(Step(x, t, 0.7, 0.7, prediction, rows, 500.0, len(rows)))

    def whole() -> None:
        attack.generate(watched, state, batch)

    apart, together = ratios.smallest(model.device, REPETITIONS, parts, whole)
    return {
        "guided_parts_seconds": apart,
        "guided_loop_seconds": together,
        "guided_overhead_percent": 100 * (together - apart) / apart,
        "guided_candidates_per_second": sampling.micro_batch / together,
    }
