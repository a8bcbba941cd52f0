"""`sidebench bench --accelerator`: in eight minutes, what a GPU decides, makes and finds, as one JSON document.

Each part has seconds of its own. What was measured until they are over stays, as it does where a part fails.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from .. import environment
from ..candidates import Candidates
from ..contracts import Attack, AttackState, Budget, Model, ModelSpec, SamplerSettings
from ..data.nearest import top_k
from ..data.pair import load_pair
from ..data.products import BLOCK, prepare
from ..data.references import References, load_references
from ..errors import BadInput
from ..files import MADE, write_json
from ..measures.scorer import Scorer
from ..models import load_model
from ..models.find_model import find_model
from ..models.flops import of_one_call
from ..models.pixel import PixelModel
from ..progress import silent
from ..protocol import TOP_K, Sampling, default_measures
from ..registry import make_attack, make_measure
from ..results.checkpoints import MemoryCheckpoints
from ..sampling.call_attack import make_candidates, prepare_attack
from ..sampling.sampler import sample_latents
from . import ratios
from .precision_check import bands_hit

SCHEMA = "sidebench-accelerator/1"
SECONDS = 480.0
"""What all parts may take together."""

DTYPES = ("float32", "bfloat16", "float16")


class Sizes(NamedTuple):
    """How much is measured."""

    candidates: int
    """That are made on both devices, and guided ones for the time."""
    product: int
    """Rows and columns of the matrices that are multiplied."""
    channels: tuple[int, ...]
    """Of the U-Net with random weights, by level; the second one has attention."""
    micro_batches: tuple[int, ...]
    steps: int
    synthetic: int
    training_steps: int
    batch: int
    sides: tuple[int, int]
    """Pixels along a side of the images of the two parts with SIDE."""
    searched: tuple[tuple[int, int, int], ...]
    """Queries, references and values of a descriptor."""
    backend: str
    """Of torch.compile."""


FULL = Sizes(
    candidates=256,
    product=8192,
    channels=(128, 256, 256, 256),
    micro_batches=(16, 64, 256, 1024),
    steps=10,
    synthetic=512,
    training_steps=50,
    batch=128,
    sides=(32, 64),
    searched=((100_000, 200_000, 64), (2_048, 200_000, 3_072)),
    backend="inductor",
)
SMALL = Sizes(
    candidates=8,
    product=128,
    channels=(8, 8),
    micro_batches=(2, 4),
    steps=2,
    synthetic=16,
    training_steps=2,
    batch=4,
    sides=(32, 64),
    searched=((64, 2_000, 64), (16, 500, 3_072)),
    backend="eager",
)
"""For the processor: that every part works, no figure worth keeping."""


class Bench(NamedTuple):
    """Where and how much is measured, and what later parts are held against."""

    device: torch.device
    sizes: Sizes
    repetitions: int
    products: dict[str, float]
    """Operations per second of a matrix product, by dtype; filled by the part that measures them."""


class Part(NamedTuple):
    """Something to measure, figure by figure."""

    name: str
    seconds: float
    measure: Callable[[Bench], Iterator[dict[str, Any]]]


def measure(device: str = "auto", small: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Carry out every part and return what was found; with `out` it is written after each part.

    Raises:
        BadInput: there is no accelerator, and the small form was not asked for.
    """
    where = environment.pick_device(device)
    if where.type == "cpu" and not small:
        raise BadInput("no accelerator here to measure: --small tries the command on the processor, in little")
    bench = Bench(where, SMALL if small else FULL, 1 if small else 2, {})
    found = {**_machine(where), "small": small, "parts": {}}
    began = time.monotonic()
    for part in parts(bench.sizes):
        found["parts"][part.name] = carried_out(part, bench, SECONDS - (time.monotonic() - began))
        found["seconds"] = time.monotonic() - began
        if out is not None:
            write_json(out, found)
    return found


def parts(sizes: Sizes) -> list[Part]:
    """Return what is measured, in order; compiling last, since it takes longest and can be done without."""
    few, many = sizes.sides
    return [
        Part("equality", 60, _equality),
        Part("products", 30, _products),
        Part("throughput", 120, _throughput),
        Part(f"side_{few}", 60, lambda bench: _side(bench, few)),
        Part(f"side_{many}", 60, lambda bench: _side(bench, many)),
        Part("search", 60, _search),
        Part("compiled", 90, _compiled),
    ]


def carried_out(part: Part, bench: Bench, left: float) -> dict[str, Any]:
    """Return a part's figures, its seconds and peak device memory, and whether it came to its end."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    figures: list[dict[str, Any]] = []
    seconds, began = min(part.seconds, left), time.monotonic()
    try:
        with _stopped_after(seconds):
            answer = _collect(part, bench, began + seconds, figures)
    except _OutOfTime:
        answer = "out of time"
    except Exception as error:  # one part must not cost the others, whatever a driver or compiler raises
        answer = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else None
    spent = time.monotonic() - began
    return {
        "answer": answer,
        "seconds": spent,
        "budget_seconds": part.seconds,
        "peak_device_bytes": peak,
        "figures": figures,
    }


def _collect(part: Part, bench: Bench, end: float, figures: list[dict[str, Any]]) -> str:
    with closing(part.measure(bench)) as steps:  # type: ignore[type-var]  # all of them are generators
        while time.monotonic() < end:
            figure = next(steps, None)
            if figure is None:
                return "ok"
            figures.append(figure)
    return "out of time"


class _OutOfTime(BaseException):
    """A part's seconds are over; no `Exception`, so that no library takes it for a failure of its own."""


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise `_OutOfTime` after so long, even within a compiler; nothing without alarms or in another thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "schema": SCHEMA,
        "made": f"{MADE.decode()} {environment.version('sidebench')}",
        "environment": environment.describe(),
        "device": str(device),
        "device_memory_bytes": environment.device_memory(str(device)),
        "capability": list(torch.cuda.get_device_capability(device)) if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


# ---- The same decisions -----------------------------------------------------------------------------


def _equality(bench: Bench) -> Iterator[dict[str, Any]]:
    """Make and score candidates of `digits` on the processor and on the device, plain and guided from one state."""
    pair = load_pair("digits")
    known, spec = load_references(pair), find_model(pair, None, Path()).spec
    devices = (torch.device("cpu"), bench.device)
    models = [load_model(spec.model_copy(update={"device": str(device)})) for device in devices]
    rows = min(64, bench.sizes.candidates)
    sampling = Sampling(micro_batch=rows, sampler=SamplerSettings(steps=50 if bench.sizes is FULL else 3))
    for attack in (make_attack("carlini-uncond", {}), _quick_side(bench.sizes)):
        state = prepare_attack(attack, models[0], sampling, _budget(bench)).state
        numbers = Candidates(0, range(bench.sizes.candidates))
        made = [make_candidates(attack, model, state, numbers, sampling).images for model in models]
        yield {"attack": attack.name, **_compared(made, known, devices)}


def _compared(made: list[torch.Tensor], known: References, devices: tuple[torch.device, ...]) -> dict[str, Any]:
    least = min(len(part.representatives()) for part in (known.training, known.held_out))
    measure = make_measure(default_measures(known.training.images[0, 0].size, smallest=least)[0])
    hits = [
        bands_hit(images, measure, Scorer(known, [measure], TOP_K, device))
        for images, device in zip(made, devices, strict=True)
    ]
    off = (made[0].int() - made[1].int()).abs()
    return {
        "candidates": len(off),
        "hits_on_cpu": int(hits[0].any(axis=1).sum()),
        "decided_otherwise": int((hits[0] != hits[1]).any(axis=1).sum()),
        "largest_level": int(off.max()),
        "share_off_by_more_than_one": float((off > 1).float().mean()),
    }


# ---- Speed of the device, and of sampling -------------------------------------------------------------


def _products(bench: Bench) -> Iterator[dict[str, Any]]:
    """Multiply square matrices in each dtype, and in TF32, which nothing else here uses."""
    for dtype in DTYPES:
        bench.products[dtype] = _product(bench, getattr(torch, dtype))
        yield {"dtype": dtype, "tflops": bench.products[dtype] / 1e12}
    if bench.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            yield {"dtype": "tf32", "tflops": _product(bench, torch.float32) / 1e12}
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False


def _product(bench: Bench, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of square matrices."""
    size = bench.sizes.product
    a = torch.randn(size, size, device=bench.device).to(dtype)
    out = torch.empty_like(a)
    (spent,) = ratios.smallest(bench.device, 3, lambda: torch.mm(a, a, out=out))
    return 2 * size**3 / max(spent, 1e-9)


def _throughput(bench: Bench) -> Iterator[dict[str, Any]]:
    """Sample 32 px images in each dtype and micro-batch, beside diffusers' own pipeline on the same network."""
    with _random_folder(bench, 32) as folder:
        for dtype in DTYPES:
            model = _load(bench, folder, dtype)
            operations = of_one_call(model) * bench.sizes.steps
            for rows in bench.sizes.micro_batches:
                yield {"dtype": dtype, "micro_batch": rows, **_images_per_second(bench, model, dtype, rows, operations)}


def _images_per_second(bench: Bench, model: Model, dtype: str, rows: int, operations: int) -> dict[str, Any]:
    sampling = Sampling(micro_batch=rows, sampler=SamplerSettings(steps=bench.sizes.steps))
    # Their pipeline ends in NumPy, which has no bfloat16.
    theirs = None if dtype == "bfloat16" else ratios.pipeline_of(model, sampling)
    ours = _plain(model, sampling)
    try:
        found = ratios.smallest(bench.device, bench.repetitions, ours, *([] if theirs is None else [theirs]))
    except torch.OutOfMemoryError:
        return {"refused": "it does not fit into memory"}
    spent = max(found[0], 1e-9)
    most = bench.products.get(dtype)
    return {
        "steps": bench.sizes.steps,
        "images_per_second": rows / spent,
        "time_over_diffusers": None if theirs is None else found[0] / max(found[1], 1e-9),
        "tflops": rows * operations / spent / 1e12,
        "share_of_product": None if most is None else rows * operations / spent / most,
    }


def _plain(model: Model, sampling: Sampling) -> Callable[[], object]:
    numbers = Candidates(0, range(sampling.micro_batch))
    return lambda: model.decode(sample_latents(model, numbers, sampling.sampler, sampling.micro_batch)).cpu()


def _compiled(bench: Bench) -> Iterator[dict[str, Any]]:
    """Sample with a compiled network, and without."""
    rows = bench.sizes.micro_batches[-2]
    sampling = Sampling(micro_batch=rows, sampler=SamplerSettings(steps=bench.sizes.steps))
    with _random_folder(bench, 32) as folder:
        for dtype in DTYPES[:2]:
            plain, compiled = (_load(bench, folder, dtype) for _ in range(2))
            compiled.unet = torch.compile(compiled.unet, backend=bench.sizes.backend)
            began = time.perf_counter()
            _plain(compiled, sampling)()
            took = time.perf_counter() - began
            slow, fast = ratios.smallest(
                bench.device, bench.repetitions, _plain(plain, sampling), _plain(compiled, sampling)
            )
            yield {
                "dtype": dtype,
                "backend": bench.sizes.backend,
                "micro_batch": rows,
                "first_call_seconds": took,
                "images_per_second": rows / max(fast, 1e-9),
                "time_over_plain": fast / max(slow, 1e-9),
            }


# ---- SIDE -------------------------------------------------------------------------------------------


def _side(bench: Bench, pixels: int) -> Iterator[dict[str, Any]]:
    """Train SIDE's classifier and sample with its guidance, on a U-Net with random weights."""
    rows = min(64, bench.sizes.candidates)
    sampling = Sampling(micro_batch=rows, sampler=SamplerSettings(steps=bench.sizes.steps))
    with _random_folder(bench, pixels) as folder:
        model = _load(bench, folder, "float32")
        kept = MemoryCheckpoints()

        def prepared(steps: int) -> tuple[Attack, AttackState, float]:
            attack, began = _quick_side(bench.sizes, training_steps=steps), time.perf_counter()
            state = prepare_attack(attack, model, sampling, _budget(bench), kept).state
            ratios.finish(bench.device)
            return attack, state, time.perf_counter() - began

        # The synthetic images are made once; two preparations differ by the steps of training.
        *_, first = prepared(1)
        *_, short = prepared(1)
        attack, state, long = prepared(1 + bench.sizes.training_steps)
        per_step = max(long - short, 0.0) / bench.sizes.training_steps
        yield {"first_preparation_seconds": first, "training_step_seconds": per_step, "batch": attack.settings.batch}
        yield _guided(bench, model, attack, state, sampling)


def _guided(bench: Bench, model: Model, attack: Attack, state: AttackState, sampling: Sampling) -> dict[str, Any]:
    numbers = Candidates(0, range(sampling.micro_batch))
    guided, plain = ratios.smallest(
        bench.device,
        bench.repetitions,
        lambda: make_candidates(attack, model, state, numbers, sampling),
        _plain(model, sampling),
    )
    return {
        "micro_batch": len(numbers.numbers),
        "guided_images_per_second": len(numbers.numbers) / max(guided, 1e-9),
        "guided_over_plain": guided / max(plain, 1e-9),
    }


def _quick_side(sizes: Sizes, training_steps: int | None = None) -> Attack:
    steps = sizes.training_steps if training_steps is None else training_steps
    clusters = max(2, sizes.synthetic // 16)
    # No cluster is dropped: what a random network draws is not alike.
    return make_attack(
        "side",
        {
            "synthetic_images": sizes.synthetic,
            "clusters": clusters,
            "training_steps": steps,
            "batch": sizes.batch,
            "cohesion": -1.0,
        },
    )


def _budget(bench: Bench) -> Budget:
    return Budget(0, bench.sizes.candidates, MemoryCheckpoints(), silent)


# ---- Search -----------------------------------------------------------------------------------------


def _search(bench: Bench) -> Iterator[dict[str, Any]]:
    """Search, beside the products alone, and see that the processor finds the same."""
    for queries, references, size in bench.sizes.searched:
        sets = [
            torch.randn(count, size, device=bench.device, generator=torch.Generator(bench.device).manual_seed(count))
            for count in (queries, references)
        ]
        yield {"queries": queries, "references": references, "values": size, **_searched(bench, *sets)}


def _searched(bench: Bench, queries: torch.Tensor, references: torch.Tensor) -> dict[str, Any]:
    known = prepare(references)
    out = queries.new_empty(BLOCK, min(1024, len(queries)))

    def product() -> None:
        for asked in queries.split(out.shape[1]):
            for part in references.split(BLOCK):
                torch.mm(part, asked.T, out=out[: len(part), : len(asked)])

    ours, alone = ratios.smallest(bench.device, 1, lambda: top_k(queries, known, TOP_K), product)
    some, few = queries[:64], references[:20_000]
    there, here = top_k(some, few, TOP_K), top_k(some.cpu(), few.cpu(), TOP_K)
    return {
        "seconds": ours,
        "time_over_product": ours / max(alone, 1e-9),
        "same_as_cpu": bool(torch.equal(there.ids.cpu(), here.ids)),
    }


# ---- A network with random weights ---------------------------------------------------------------------


@contextmanager
def _random_folder(bench: Bench, pixels: int) -> Iterator[Path]:
    """Yield a folder with a pipeline as large as DDPM's for CIFAR-10, weights drawn from a fixed seed."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    levels = len(bench.sizes.channels)
    with torch.random.fork_rng(devices=[]), TemporaryDirectory(prefix="sidebench-") as folder:
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=pixels,
            in_channels=3,
            out_channels=3,
            block_out_channels=bench.sizes.channels,
            norm_num_groups=min(32, *bench.sizes.channels),
            down_block_types=tuple("AttnDownBlock2D" if level == 1 else "DownBlock2D" for level in range(levels)),
            up_block_types=tuple("AttnUpBlock2D" if level == levels - 2 else "UpBlock2D" for level in range(levels)),
        )
        DDIMPipeline(network, DDIMScheduler()).save_pretrained(folder, safe_serialization=True)
        yield Path(folder)


def _load(bench: Bench, folder: Path, dtype: Any) -> PixelModel:
    spec = ModelSpec(family="pixel", location=str(folder), device=str(bench.device), dtype=dtype)
    model = load_model(spec)
    assert isinstance(model, PixelModel)
    return model


def as_text(found: dict[str, Any]) -> str:
    """Return the figures, a block for each part."""
    said = found["environment"]
    lines = [f"{found['device']}: {said['accelerator'] or said['processor']}, torch {said['versions']['torch']}"]
    for name, part in found["parts"].items():
        lines += ["", f"{name}: {part['answer']}, {part['seconds']:.1f} of {part['budget_seconds']:.0f} s"]
        lines += ["  " + ", ".join(f"{key} {_shown(value)}" for key, value in each.items()) for each in part["figures"]]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
