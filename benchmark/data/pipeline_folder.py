"""What a diffusers pipeline folder says of itself: class, components, files that are needed, image size.

Works on names and small JSON files alone, so that a repository can be judged before its weights are downloaded.
Newer folders hold each component in a folder of its own; older ones with one network hold all in the root.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts import Conditioning
from ..errors import BadInput, UnsafeFile
from ..files import parse_json, read_bytes
from . import config_rules
from .git_lfs import FIX, is_pointer
from .pipeline_reasons import why_not
from .text_pipelines import TEXT_PIPELINES, lacking

FAMILIES: Mapping[str, str] = {
    "DDPMPipeline": "pixel",
    "DDIMPipeline": "pixel",
    "PNDMPipeline": "pixel",
    "ScoreSdeVePipeline": "pixel",
    "ConsistencyModelPipeline": "pixel",
    "LDMPipeline": "latent",
    "DiTPipeline": "latent",
    **dict.fromkeys(TEXT_PIPELINES, "text"),
}
"""Pipeline classes that sidebench knows, and the family that each belongs to."""

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "pixel": ("unet", "scheduler"),
    "latent": ("unet", "transformer", "vqvae", "vae", "scheduler"),
}
"""What is loaded of each family without text; anything else in the folder (a safety checker, say) is left alone."""

SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete", "HeunDiscrete"),
        *("EulerAncestralDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSinglestep"),
        *("DPMSolverMultistep", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep"),
        *("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "LCM"),
    )
)
"""Schedulers whose configuration states a discrete noise schedule: its betas, or the straight path of a flow."""

SIGMA_SCHEDULERS = frozenset({"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"})
"""Schedulers that state sigma and precondition the network; what is given no text is run with them."""

OWN_SCHEDULERS: Mapping[str, str] = {
    "ScoreSdeVePipeline": "ScoreSdeVeScheduler",
    "ConsistencyModelPipeline": "CMStochasticIterativeScheduler",
}
"""Pipelines that go with one scheduler alone, and it."""

UNETS: Mapping[str, tuple[str, ...]] = {
    "DDPMPipeline": ("UNet2DModel", "UNet2DConditionModel"),
    "DDIMPipeline": ("UNet2DModel", "UNet2DConditionModel"),
    "PNDMPipeline": ("UNet2DModel", "UNet2DConditionModel"),
    "ScoreSdeVePipeline": ("UNet2DModel",),
    "ConsistencyModelPipeline": ("UNet2DModel",),
    "LDMPipeline": ("UNet2DModel",),
}
"""Classes of the U-Net of pipelines without text."""

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_TEXTS = (".json", ".txt", ".model")
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<before>[\w-]+?))?(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?:\.(?P<after>[\w-]+))?"
    r"(?P<kind>\.safetensors|\.bin)(?P<index>(?:\.(?P<middle>(?!index)[\w-]+))?\.index(?:\.(?P<last>[\w-]+))?\.json)?"
)
_VARIANT = ("before", "after", "middle", "last")
"""Where in a name of `_WEIGHTS` a variant may stand: libraries have written it in any of four places."""


_MOST = {"layers": 512, "sample_size": 8192, "image_size": 8192, "channels": 2**15, "train_timesteps": 10**5}
"""Largest number under a key of a component's configuration that holds this word."""

_MOST_BLOCKS = 64

_ANY_NUMBER = ("scheduler_config.json", "tokenizer_config.json")
"""Files in which the libraries write -Infinity and 10 ** 30 for no bound."""


@dataclass(frozen=True)
class Layout:
    """A pipeline's class and its components, from model_index.json, checked."""

    owner: str
    """How messages name the folder or repository."""
    pipeline: str
    components: Mapping[str, tuple[str, str]]
    """(library, class) by component name, of those that sidebench loads."""
    left_out: tuple[str, ...] = ()
    """Components that the pipeline has and sidebench does not load: a safety checker, say."""

    @property
    def family(self) -> str:
        """The model family: pixel, latent or text."""
        return FAMILIES[self.pipeline]

    def place(self, name: str, files: Collection[str]) -> str:
        """Return the folder of a component as a prefix: `unet/`, or nothing where all lies in the root."""
        return f"{name}/" if any(file.startswith(f"{name}/") for file in files) else ""


def read_layout(content: Any, owner: str) -> Layout:
    """Check the content of model_index.json.

    Raises:
        UnsafeFile: the repository wants its own Python code to be run.
        BadInput: it is no pipeline, or of a class that sidebench does not know.
    """
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str | list):
        raise BadInput(f"{owner}: {INDEX} names no pipeline class, so this is no diffusers pipeline")
    pipeline = content["_class_name"]
    if isinstance(pipeline, list) or content.get("custom_pipeline"):
        raise UnsafeFile(f"{owner}: its pipeline is Python code of its own, which sidebench does not run")
    if pipeline not in FAMILIES:
        raise BadInput(
            f"{owner}: a {pipeline} is not a pipeline that sidebench knows, since it {why_not(pipeline)} "
            f"({', '.join(sorted(FAMILIES))} run)"
        )
    parts: dict[str, tuple[str, str]] = {}
    for name in _loaded(pipeline):
        match content.get(name):
            case [str() as library, str() as cls]:
                parts[name] = (library, cls)
            case [None, None] | None:
                continue
            case _:
                raise BadInput(f"{owner}: {INDEX} does not say what {name} is")
    for name, (library, cls) in parts.items():
        if library not in LIBRARIES:
            raise UnsafeFile(
                f"{owner}: its {name} ({library}.{cls}) is Python code of its own, which sidebench does not run"
            )
    scheduler = parts.get("scheduler", ("", "nothing"))[1]
    if scheduler not in _schedulers(pipeline):
        raise BadInput(f"{owner}: {scheduler} is not a noise schedule that sidebench knows for a {pipeline}")
    unet = parts.get("unet", ("", "nothing"))[1]
    if pipeline in UNETS and unet not in UNETS[pipeline]:
        raise BadInput(f"{owner}: the unet of a {pipeline} is a {' or '.join(UNETS[pipeline])}, this one is {unet}")
    if pipeline in TEXT_PIPELINES and (wrong := lacking(pipeline, parts)):
        raise BadInput(f"{owner}: {wrong}")
    others = {name for name, given in content.items() if isinstance(given, list) and None not in given}
    return Layout(owner, pipeline, parts, tuple(sorted(others - parts.keys())))


def _loaded(pipeline: str) -> tuple[str, ...]:
    """Return the components that are loaded of a pipeline of this class, where it has them."""
    text = TEXT_PIPELINES.get(pipeline)
    return COMPONENTS[FAMILIES[pipeline]] if text is None else (*text.classes, "scheduler")


def _schedulers(pipeline: str) -> Collection[str]:
    """Return the noise schedules that a pipeline of this class is run with."""
    if pipeline in OWN_SCHEDULERS:
        return {OWN_SCHEDULERS[pipeline]}
    text = TEXT_PIPELINES.get(pipeline)
    return SCHEDULERS | SIGMA_SCHEDULERS if text is None else text.schedulers or SCHEDULERS


def needed_files(
    layout: Layout, files: Collection[str], variant: str | None = None, allow_pickle: bool = False
) -> list[str]:
    """Choose the files of a pipeline that are loaded: its JSON and text files and one set of weights each.

    Names are relative to the pipeline's folder. Where a component lacks the variant, its plain weights are taken.

    Raises:
        UnsafeFile: a component's weights are pickled only.
        BadInput: a component has no weights.
    """
    chosen = [INDEX]
    for name, (_, cls) in layout.components.items():
        place = layout.place(name, files)
        inside = [file for file in files if file.startswith(place) and "/" not in file[len(place) :]]
        chosen += [file for file in inside if file.endswith(_TEXTS) and ".index." not in file]
        if not cls.endswith(("Scheduler", "Tokenizer", "TokenizerFast")):
            chosen += _weights(layout.owner, name, place, inside, variant, allow_pickle)
        elif not place and layout.family == "text":
            raise BadInput(f"{layout.owner}: no files for {name}: the folder {name}/ is missing")
    return sorted(set(chosen))


def _weights(
    owner: str, name: str, place: str, files: Iterable[str], variant: str | None, allow_pickle: bool
) -> list[str]:
    """Choose one set of a component's weights: a file, or all shards and their index."""
    found: dict[tuple[str, str | None], list[re.Match[str]]] = {}
    for file in files:
        weights = _WEIGHTS.fullmatch(file[len(place) :])
        if weights:
            named = next((weights[part] for part in _VARIANT if weights[part]), None)
            found.setdefault((weights["kind"], named), []).append(weights)
    for kind in (".safetensors", ".bin") if allow_pickle else (".safetensors",):
        for wanted in dict.fromkeys((variant, None)):
            if any(not weights["index"] for weights in found.get((kind, wanted), [])):
                return [place + chosen for chosen in _whole_or_shards(f"{owner}/{name}", found[kind, wanted])]
    pickled = next((file for file in files if file.endswith(PICKLES)), None)
    if pickled:
        raise UnsafeFile(
            f"{owner}: only pickled weights ({pickled}); convert them to safetensors, or --allow-pickle if you trust it"
        )
    others = sorted({str(key[1]) for key in found if key[1]})
    known = f"; variants: {', '.join(others)} (--variant, model.variant)" if others else ""
    raise BadInput(f"{owner}: no weights for {name}: {place}diffusion_pytorch_model.safetensors is missing{known}")


def _whole_or_shards(component: str, found: Iterable[re.Match[str]]) -> list[str]:
    """Return the file of whole weights, or all shards and their index, which the libraries prefer where it is there.

    Raises:
        BadInput: a shard is missing, or the index.
    """
    whole = [one[0] for one in found if not one["index"] and not one["shard"]]
    index = [one[0] for one in found if one["index"]]
    shards = {int(one["shard"]): one for one in found if one["shard"]}
    if whole and not (shards and index):
        return whole[:1]
    if not index:
        raise BadInput(f"{component}: its weights are in {len(shards)} shards without their index (*.index.json)")
    count = max(int(one["shards"]) for one in shards.values())
    if missing := sorted(set(range(1, count + 1)) - shards.keys()):
        raise BadInput(
            f"{component}: shard {missing[0]} of {count} of its weights is missing; download the folder again"
        )
    return [*(one[0] for one in shards.values()), *index]


def lora_file(owner: str, files: Collection[str], wanted: str | None = None) -> str:
    """Choose the file of a LoRA: the one that is wanted, or the only safetensors file.

    Raises:
        UnsafeFile: there are pickled weights only.
        BadInput: there is no such file, or more than one.
    """
    found = sorted(file for file in files if file.endswith(".safetensors"))
    if wanted is not None:
        found = [file for file in found if file == wanted]
        if not found:
            raise BadInput(f"{owner} has no LoRA file {wanted!r}: give a name that ends in .safetensors")
    if len(found) > 1:
        raise BadInput(f"{owner}: say which is the LoRA by model.lora.file: {', '.join(found[:5])}")
    if found:
        return found[0]
    pickled = next((file for file in sorted(files) if file.endswith(PICKLES)), None)
    if pickled:
        raise UnsafeFile(f"{owner}: the LoRA is pickled ({pickled}); convert it to safetensors")
    raise BadInput(f"{owner} holds no LoRA: there is no safetensors file")


# ---- Local folders ----------------------------------------------------------------------------------


def read_folder(folder: Path, owner: str | None = None) -> tuple[Layout, list[str]]:
    """Return the layout of a local folder and the names of all its files."""
    layout = read_layout(read_json(folder / INDEX), owner or folder.name)
    return layout, sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def component(folder: Path, name: str) -> Path:
    """Return where a component lies: its own folder, or the root in older repositories."""
    return folder / name if (folder / name).is_dir() else folder


def image_size(folder: Path) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images that a pipeline makes, from its configs.

    Raises:
        BadInput: a config is missing or does not say it.
    """
    (height, width, channels), scale = sample_size(folder), 1
    layout = read_layout(read_json(folder / INDEX), folder.name)
    for decoder in {"vae", "vqvae"} & layout.components.keys():
        own = read_json(component(folder, decoder) / "config.json")
        try:
            channels, scale = _decoded(own)
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{folder.name}/{decoder}/config.json does not say the image size") from None
    return height * scale, width * scale, channels


def _decoded(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the channels of an autoencoder's images and how much larger they are than its latents."""
    if "encoder_block_out_channels" in config:  # AutoencoderDC, whose images have as many channels on both ends
        return int(config["in_channels"]), 2 ** (len(config["encoder_block_out_channels"]) - 1)
    return int(config["out_channels"]), 2 ** (len(config["block_out_channels"]) - 1)


def sample_size(folder: Path) -> tuple[int, int, int]:
    """Return (height, width, channels) of what the denoiser is given, from its config: of latents, or of images.

    Raises:
        BadInput: the config is missing or does not say it.
    """
    layout = read_layout(read_json(folder / INDEX), folder.name)
    name = denoiser(layout)
    config = read_json(component(folder, name) / "config.json")
    text = TEXT_PIPELINES.get(layout.pipeline)
    own, patch = (text.side, text.patch) if text else (None, 1)
    try:
        size = config["sample_size"] if own is None else config.get("sample_size", own)
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width), int(config["in_channels"]) // patch**2
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{folder.name}/{name}/config.json does not say the image size") from None


def denoiser(layout: Layout) -> str:
    """Return the name of the component that denoises."""
    return "transformer" if "transformer" in layout.components else "unet"


def check_configs(folder: Path, owner: str | None = None) -> None:
    """Look at every value of a pipeline's configurations, once, before any work.

    Raises:
        BadInput: one cannot be used; the message names the file, the key, the value and what is right.
    """
    layout = read_layout(read_json(folder / INDEX), owner or folder.name)
    scheduler = scheduler_config(folder, layout.owner)
    if layout.family == "text":
        return
    name = denoiser(layout)
    place = component(folder, name) / "config.json"
    config, file = read_json(place), f"{place.parent.name}/{place.name}"
    config_rules.check_denoiser(file, config, layout.components.get(name, ("", ""))[1])
    config_rules.check_together(file, config, scheduler)


def scheduler_config(folder: Path, owner: str) -> dict[str, Any]:
    """Return the checked configuration of a pipeline's noise schedule, its class that which model_index.json names.

    Raises:
        BadInput: a value cannot be used.
    """
    cls = read_layout(read_json(folder / INDEX), owner).components["scheduler"][1]
    place = component(folder, "scheduler") / "scheduler_config.json"
    config = read_json(place)
    config_rules.check_scheduler(f"{place.parent.name}/{place.name}", config, cls)
    return {**config, "_class_name": cls}


def timesteps(scheduler: Mapping[str, Any]) -> int:
    """Return how many timesteps a noise schedule has, by its configuration."""
    usual = 40 if scheduler["_class_name"] == OWN_SCHEDULERS["ConsistencyModelPipeline"] else 1000
    return int(scheduler.get("num_train_timesteps", usual))


def most_steps(folder: Path) -> int | None:
    """Return in how many steps a pipeline can be sampled at most; None where its noise schedule sets no limit.

    A latent consistency model was distilled from a sampler of so many steps, and takes some of these.
    """
    if read_layout(read_json(folder / INDEX), folder.name).components["scheduler"][1] != "LCMScheduler":
        return None
    place = component(folder, "scheduler") / "scheduler_config.json"
    stated = read_json(place).get("original_inference_steps", 50)
    if not isinstance(stated, int) or stated < 1:
        raise BadInput(f"{folder.name}/scheduler, original_inference_steps: is {stated!r}, wanted a number of steps")
    return stated


def conditioning(folder: Path) -> Conditioning:
    """Return what a pipeline's denoiser is conditioned on."""
    layout = read_layout(read_json(folder / INDEX), folder.name)
    if layout.family == "text":
        return "text"
    if "transformer" in layout.components:
        return "class"
    embeds = read_json(component(folder, "unet") / "config.json").get("num_class_embeds")
    return "none" if embeds is None else "class"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: the file is missing, no JSON, no object, or asks for a network of a size that nobody has.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        written = read_bytes(path)
        if is_pointer(written):
            raise BadInput(f"{name} is a Git LFS pointer: {FIX}")
        content = parse_json(written, any_number=path.name in _ANY_NUMBER)
        _check_finite(content)
    except FileNotFoundError:
        raise BadInput(f"{path.parent.name}: no {path.name}, so this is no diffusers pipeline folder") from None
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{name} holds no settings")
    for key, value in content.items():
        if (most := next((most for word, most in _MOST.items() if word in key), None)) is not None:
            _check_size(f"{name}, {key}", value, most)
    return content


def _check_finite(content: Any) -> None:
    """Raise `ValueError` for an infinite number, unless it is how diffusers' multistep solvers say "no bound"."""
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != "lambda_min_clipped"}
    json.dumps(content, allow_nan=False)


def _check_size(what: str, value: Any, most: int) -> None:
    """Refuse a number, or a list of them, that would build a network for hours or fill the memory."""
    values = value if isinstance(value, list) else [value]
    if len(values) > _MOST_BLOCKS:
        raise BadInput(f"{what}: holds {len(values):,} values, at most {_MOST_BLOCKS} are loaded")
    for each in values:
        if isinstance(each, list):
            _check_size(what, each, most)
        elif isinstance(each, int | float) and not 0 <= each <= most:
            raise BadInput(f"{what}: is {each:,}, from 0 to {most:,} is loaded")
