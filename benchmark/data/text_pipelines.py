"""Text-to-image pipelines that sidebench runs: the components of each class, and what each of them may be.

Known before any weights are downloaded. `models/` has a file for each group that says how its denoiser is called.
"""

from collections.abc import Mapping
from typing import NamedTuple

CLIP = ("CLIPTextModel",)
CLIP_PROJECTED = ("CLIPTextModelWithProjection",)
CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
T5 = ("T5EncoderModel",)
T5_TOKENIZER = ("T5TokenizerFast", "T5Tokenizer")
UNET = ("UNet2DConditionModel",)
KL = ("AutoencoderKL",)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class TextPipeline(NamedTuple):
    """What a pipeline of one class is made of."""

    classes: Mapping[str, tuple[str, ...]]
    """The classes that each component may be of, by its name: denoiser, autoencoder, encoders and tokenizers."""
    optional: frozenset[str] = frozenset()
    """Components that the pipeline works without."""
    schedulers: tuple[str, ...] = ()
    """The noise schedules that it takes; empty: any discrete one."""
    side: int | None = None
    """Height and width of the latents where the denoiser's configuration does not say them."""
    patch: int = 1
    """The denoiser is given squares of latents of this side as one token, whose channels its `in_channels` counts."""

    def encoders(self) -> dict[str, str]:
        """Return the name of each encoder's tokenizer by the encoder's name."""
        names = [name for name in self.classes if name.startswith("text_encoder")]
        return {name: name.replace("text_encoder", "tokenizer") for name in names}


_STABLE_DIFFUSION = {"unet": UNET, "vae": KL, "text_encoder": CLIP, "tokenizer": CLIP_TOKENIZER}
_PIXART = {
    "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
    "vae": KL,
    "text_encoder": T5,
    "tokenizer": T5_TOKENIZER,
}

TEXT_PIPELINES: Mapping[str, TextPipeline] = {
    "StableDiffusionPipeline": TextPipeline(_STABLE_DIFFUSION),
    "LatentConsistencyModelPipeline": TextPipeline(_STABLE_DIFFUSION, schedulers=("LCMScheduler",)),
    "StableDiffusionXLPipeline": TextPipeline(
        {**_STABLE_DIFFUSION, "text_encoder_2": CLIP_PROJECTED, "tokenizer_2": CLIP_TOKENIZER},
        optional=frozenset({"text_encoder", "tokenizer"}),
    ),
    "StableDiffusion3Pipeline": TextPipeline(
        {
            "transformer": ("SD3Transformer2DModel",),
            "vae": KL,
            "text_encoder": CLIP_PROJECTED,
            "tokenizer": CLIP_TOKENIZER,
            "text_encoder_2": CLIP_PROJECTED,
            "tokenizer_2": CLIP_TOKENIZER,
            "text_encoder_3": T5,
            "tokenizer_3": T5_TOKENIZER,
        },
        optional=frozenset({"text_encoder_3", "tokenizer_3"}),
        schedulers=FLOWS,
    ),
    "FluxPipeline": TextPipeline(
        {
            "transformer": ("FluxTransformer2DModel",),
            "vae": KL,
            "text_encoder": CLIP,
            "tokenizer": CLIP_TOKENIZER,
            "text_encoder_2": T5,
            "tokenizer_2": T5_TOKENIZER,
        },
        schedulers=FLOWS,
        side=128,
        patch=2,
    ),
    "PixArtAlphaPipeline": TextPipeline(_PIXART),
    "PixArtSigmaPipeline": TextPipeline(_PIXART),
    "SanaPipeline": TextPipeline(
        {
            "transformer": ("SanaTransformer2DModel",),
            "vae": ("AutoencoderDC",),
            "text_encoder": ("Gemma2Model",),
            "tokenizer": ("GemmaTokenizerFast", "GemmaTokenizer"),
        },
        schedulers=(*FLOWS, "DPMSolverMultistepScheduler"),
    ),
}


def lacking(pipeline: str, parts: Mapping[str, tuple[str, str]]) -> str | None:
    """Return what is wrong with the components of a text-to-image pipeline, or None.

    Args:
        pipeline: The class of the pipeline, one of TEXT_PIPELINES.
        parts: (library, class) by component name, as model_index.json states them.
    """
    kind = TEXT_PIPELINES[pipeline]
    for name, classes in kind.classes.items():
        found = parts.get(name)
        if found is None and name not in kind.optional:
            return f"a {pipeline} needs its {name} ({classes[0]}), which model_index.json leaves out"
        if found is not None and found[1] not in classes:
            return f"its {name} is a {found[1]}; a {pipeline} is run with a {classes[0]}"
    for encoder, tokenizer in kind.encoders().items():
        if (encoder in parts) != (tokenizer in parts):
            there, missing = (encoder, tokenizer) if encoder in parts else (tokenizer, encoder)
            return f"it has a {there} and no {missing}: a {pipeline} needs both or neither"
    return None
