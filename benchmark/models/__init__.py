"""The model under audit: diffusers pipelines and closed-form controls behind the one `Model` contract.

`pixel`, `latent`, `text` are the families of pipelines, `stable_diffusion`, `sdxl`, `mmdit`, `flux`, `pixart` and
`sana` text-to-image ones, `torch_module` and `own_model` models of somebody's own, `given_images` images that exist
already, `analytic` and `controls` models with known truth, `lora` and `schedule` what they are made with, `find_model`
goes from a name to files, `zoo/` holds the embedded models. May import words, stats and data.

    from sidebench import ModelSpec, load_model

    model = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    print(model.sample_shape, model.prediction_type)
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import files
from ..contracts import Conditioning, Model, ModelSpec
from ..data import model_files, pipeline_folder
from ..data.pair import is_own_location
from ..errors import UnknownName

if TYPE_CHECKING:
    from .pipeline import PipelineModel

FAMILIES = ("pixel", "latent", "text", "mixture", "images")
PIPELINES = ("pixel", "latent", "text")
"""Families that are pipelines in diffusers' layout."""

WITH_AUTOENCODER = ("latent", "text")
"""Families whose images come out of a decoder."""

OUTLINED = ("pixel", "latent")
"""Families that are built without weights before any work; those with text are built whole at once."""
_OF_FAMILY = {"pixel": ("pixel", "PixelModel"), "latent": ("latent", "LatentModel")}
_MODELS = {
    "ScoreSdeVePipeline": ("pixel", "ScoreSdeModel"),
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusionModel"),
    "LatentConsistencyModelPipeline": ("stable_diffusion", "StableDiffusionModel"),
    "StableDiffusionXLPipeline": ("sdxl", "StableDiffusionXLModel"),
    "StableDiffusion3Pipeline": ("mmdit", "StableDiffusion3Model"),
    "FluxPipeline": ("flux", "FluxModel"),
    "PixArtAlphaPipeline": ("pixart", "PixArtModel"),
    "PixArtSigmaPipeline": ("pixart", "PixArtModel"),
    "SanaPipeline": ("sana", "SanaModel"),
}
"""Module and class by pipeline class, and by family for the rest; imported when one is loaded."""


class ModelFiles(NamedTuple):
    """What can be known of a model from its files without loading it."""

    sha256: dict[str, str]
    image_size: tuple[int, int, int]
    """(height, width, channels)."""
    sample_size: tuple[int, int, int]
    """The same of what the denoiser is given: of latents, where there are any."""
    conditioning: Conditioning
    left_out: tuple[str, ...] = ()
    """Components that the pipeline has and that are not loaded."""
    outline: Model | None = None
    """The model without its weights, whose noise schedule is its own; None where that is not known without them."""
    most_steps: int | None = None
    """In how many steps it can be sampled at most; None where nothing limits them."""
    given: int | None = None
    """How many images there are, where they stand in the place of a model."""


def is_own(spec: ModelSpec) -> bool:
    """Return whether a model is somebody's own code, not a pipeline's files or a control."""
    return spec.live is not None or is_own_location(spec.location)


def inspect_files(spec: ModelSpec) -> ModelFiles:
    """Check a model's files against their pinned hashes and read the image size.

    A model of somebody's own is loaded for it, and tried.

    Raises:
        BadInput: the files are missing or say no image size, or the model does not keep its contract.
        UnsafeFile: a file is a pickle, or not the pinned one.
    """
    if is_own(spec):
        from .own_model import load_tried

        model = load_tried(spec)
        channels, height, width = model.image_shape
        size = model.sample_shape[1], model.sample_shape[2], model.sample_shape[0]
        return ModelFiles(model.spec.sha256, (height, width, channels), size, model.conditioning, outline=model)
    if spec.family == "images":
        from .given_images import GivenImages

        images = GivenImages(spec)
        channels, height, width = images.image_shape
        size = height, width, channels
        return ModelFiles(images.spec.sha256, size, size, "none", given=len(images.images))
    if spec.family == "mixture":
        from safetensors import safe_open

        path = Path(spec.location)
        with safe_open(path, framework="np") as file:
            channels, height, width = file.get_slice("means").get_shape()[1:]
        return ModelFiles({path.name: files.sha256(path)}, (height, width, channels), (height, width, channels), "none")
    folder = model_files.locate(spec.location)
    found = model_files.check_files(folder, spec.sha256, spec.variant, spec.allow_pickle)
    without_weights = None
    if spec.family in OUTLINED:
        from .outline import outline

        configs = tuple(item for item in sorted(found.items()) if item[0].endswith(".json"))
        without_weights = outline(_pipeline_class(spec), spec.family, spec.location, configs)
    return ModelFiles(
        found,
        pipeline_folder.image_size(folder),
        pipeline_folder.sample_size(folder),
        pipeline_folder.conditioning(folder),
        pipeline_folder.read_folder(folder)[0].left_out,
        without_weights,
        pipeline_folder.most_steps(folder),
    )


def load_model(spec: ModelSpec) -> Model:
    """Build a model from its specification, in this or another process.

    Raises:
        UnknownName: the family is not known.
        BadInput: the files are missing, or the device is not there.
        UnsafeFile: a file is a pickle, or not the pinned one; the LoRA's too.
    """
    if is_own(spec):
        from .own_model import load_own

        return load_own(spec)
    if spec.family == "images":
        from .given_images import GivenImages

        return GivenImages(spec)
    if spec.family == "mixture":
        from .analytic import MixtureModel

        return MixtureModel.from_spec(spec)
    model = _pipeline_class(spec)(spec)
    if spec.lora is not None:
        model.put_lora()
    if spec.compiled:
        model.compile()
    return model


def _pipeline_class(spec: ModelSpec) -> "type[PipelineModel]":
    if spec.family not in PIPELINES:
        raise UnknownName("model family", spec.family, FAMILIES)
    pipeline = pipeline_folder.read_folder(model_files.locate(spec.location))[0].pipeline
    module, name = _MODELS.get(pipeline) or _OF_FAMILY[spec.family]
    found: type[PipelineModel] = getattr(import_module(f".{module}", __package__), name)
    return found
