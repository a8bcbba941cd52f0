"""What `sidebench bench` holds against a limit: time over the time of a peer, in one process, interleaved.

On a CPU seconds are those of the processor, so that others on the machine count little; on a GPU those of the clock.
"""

import copy
import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..candidates import Candidates
from ..contracts import Model
from ..data.nearest import top_k
from ..data.products import BLOCK, prepare
from ..models.pixel import PixelModel, ScoreSdeModel
from ..protocol import TOP_K, Sampling
from ..sampling.sampler import sample_latents

SEARCHED = (1024, 50_000)
"""Images that are searched for, and those among which."""

SIZES = (64, 3072)
"""Values of a descriptor: an embedding's, and those of an image of 32 x 32 x 3."""


class Ratio(NamedTuple):
    """One line of the table."""

    what: str
    peer: str
    ratio: float | None
    """Our time over the peer's; None where it was not measured."""
    limit: float
    answer: str
    """ok, over, or why it was not measured."""


def judged(what: str, peer: str, limit: float, ours: float, theirs: float) -> Ratio:
    """Hold our time over the peer's against the limit, which is still allowed."""
    ratio = ours / theirs
    return Ratio(what, peer, ratio, limit, "ok" if ratio <= limit else "over")


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def smallest(device: torch.device, repetitions: int, *actions: Callable[[], object]) -> list[float]:
    """Return each action's smallest time over interleaved repetitions, after one warm-up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[list[float]] = [[] for _ in actions]
    for repetition in range(repetitions + 1):
        for action, record in zip(actions, times, strict=True):
            began = clock()
            action()
            finish(device)
            if repetition:
                record.append(clock() - began)
    return [min(record) for record in times]


def of_sampling(model: Model, sampling: Sampling, repetitions: int, compiled: bool = False) -> list[Ratio]:
    """Hold the sampling loop against the bare denoiser and diffusers' pipeline, and other ways to run the denoiser."""
    rows, settings = sampling.micro_batch, sampling.sampler
    x = torch.randn(rows, *model.sample_shape, device=model.device)
    times = torch.linspace(model.num_train_timesteps - 1, 0, settings.steps).long().to(model.device)

    def loop() -> None:
        model.decode(sample_latents(model, Candidates(0, range(rows)), settings, rows))

    @torch.no_grad()
    def denoiser() -> None:
        for t in times:
            model.predict(x, t.expand(rows))

    theirs = pipeline_of(model, sampling)
    found = smallest(model.device, repetitions, loop, denoiser, theirs or denoiser)
    ratios = [judged("sampling loop", "the denoiser alone", 1.05, found[0], found[1])]
    if theirs is None:
        said = "not measured: only for unconditional pixel models with DDIM"
        ratios.append(Ratio("sampling loop", "diffusers' DDIMPipeline", None, 1.05, said))
    else:
        ratios.append(judged("sampling loop", "diffusers' DDIMPipeline", 1.05, found[0], found[2]))
    return ratios + _other_ways(model, x, times[:3], repetitions, compiled)


def pipeline_of(model: Model, sampling: Sampling) -> Callable[[], object] | None:
    """Return diffusers' own pipeline on the same network, as many images and steps; None where there is none."""
    settings = sampling.sampler
    if type(model) is not PixelModel or model.conditioning != "none" or (settings.name, settings.eta) != ("ddim", 0):
        return None
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(model.unet, DDIMScheduler.from_config(dict(model.scheduler_config)))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=sampling.micro_batch, num_inference_steps=settings.steps, output_type="np")


def _other_ways(model: Model, x: torch.Tensor, times: torch.Tensor, repetitions: int, compiled: bool) -> list[Ratio]:
    """Hold the denoiser in bfloat16, and compiled where that was asked for, against the one in float32."""
    if not isinstance(model, PixelModel) or isinstance(model, ScoreSdeModel) or model.conditioning != "none":
        why = "not measured: only for unconditional pixel models"
        return [Ratio(f"denoiser, {way}", "in float32", None, 1.0, why) for way in ("bfloat16", "compiled")]

    def calls(network: Any, sample: torch.Tensor) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            for t in times:
                network(sample, t.expand(len(sample)), return_dict=False)

        return call

    half = copy.deepcopy(model.unet).to(torch.bfloat16)
    plain, low = smallest(model.device, repetitions, calls(model.unet, x), calls(half, x.to(torch.bfloat16)))
    ratios = [judged("denoiser, bfloat16", "in float32", 1.0, low, plain)]
    if not compiled:
        return [*ratios, Ratio("denoiser, compiled", "in float32", None, 1.0, "not measured: give --compiled")]
    try:
        network = torch.compile(model.unet)
        plain, fast = smallest(model.device, repetitions, calls(model.unet, x), calls(network, x))
    except Exception as error:  # whatever the compiler, or the lack of one, raises
        why = f"not measured: {type(error).__name__}"
        return [*ratios, Ratio("denoiser, compiled", "in float32", None, 1.0, why)]
    return [*ratios, judged("denoiser, compiled", "in float32", 1.0, fast, plain)]


def of_search(device: torch.device, repetitions: int) -> list[Ratio]:
    """Hold exact search against the plain matrix product, and against faiss where it is installed."""
    return [ratio for size in SIZES for ratio in _of_search(size, device, repetitions)]


def _of_search(size: int, device: torch.device, repetitions: int) -> list[Ratio]:
    queries, references = (
        torch.randn(n, size, device=device, generator=torch.Generator(device).manual_seed(n)) for n in SEARCHED
    )
    known = prepare(references)
    product = queries.new_empty(BLOCK, len(queries))

    def plain() -> None:
        for part in references.split(BLOCK):
            torch.mm(part, queries.T, out=product[: len(part)])

    def ours() -> None:
        top_k(queries, known, TOP_K)

    theirs = _faiss(queries, references) if device.type == "cpu" else None
    found = smallest(device, repetitions, ours, plain, *([] if theirs is None else [theirs]))
    what = f"search, {size:,} values"
    ratios = [judged(what, "the matrix product alone", 1.25, found[0], found[1])]
    if theirs is None:
        why = "not measured: pip install faiss-cpu" if device.type == "cpu" else "not measured: only on a CPU"
        return [*ratios, Ratio(what, "faiss, IndexFlatL2", None, 1.0, why)]
    return [*ratios, judged(what, "faiss, IndexFlatL2", 1.0, found[0], found[2])]


def _faiss(queries: torch.Tensor, references: torch.Tensor) -> Callable[[], object] | None:
    """Return the same search by faiss, on as many threads; None where it is not installed."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(references.shape[1])
    index.add(references.numpy())
    return lambda: index.search(queries.numpy(), TOP_K)


def as_text(ratios: list[Ratio]) -> str:
    """Return the table, a line each."""
    from tabulate import tabulate

    rows = [
        (held.what, held.peer, "" if held.ratio is None else f"{held.ratio:.2f}", f"{held.limit:.2f}", held.answer)
        for held in ratios
    ]
    return tabulate(rows, ("what", "peer", "time", "limit", ""), tablefmt="plain", disable_numparse=True)
