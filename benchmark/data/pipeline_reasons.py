"""Why a pipeline class of diffusers is not run, by its name: one list for the message and docs/pairs.md."""

import re
from collections.abc import Iterable

REASONS: tuple[tuple[str, str], ...] = (
    (r"Modular", "is put together of blocks, not loaded from a folder of components"),
    (r"Onnx", "is a graph of ONNX, not a torch network"),
    (r"Audio|Music|Dance|Spectrogram|AceStep", "makes sound"),
    (r"ShapE|LDM3D", "makes shapes or depth"),
    (r"LLaDA|Gemma", "makes text"),
    (r"Proteina", "makes proteins"),
    (r"VQDiffusion|Amused", "denoises tokens, not values"),
    (r"SuperResolution|Upscale|Upsample|SRPipeline|Refine", "enlarges or refines what another pipeline made"),
    (
        r"Video|Animate|Allegro|Latte|Mochi|LTX|Wan|SkyReels|I2V|T2V|PIA|ConsisID|Helios|AnyFlow|SanaWM"
        r"|TextToWorld|Cosmos2_5|Cosmos3|ChronoEdit|LucyEdit",
        "makes videos",
    ),
    (r"Control|Adapter|GLIGEN", "wants a picture that says what goes where"),
    (
        r"Img2Img|Image2Image|I2I|Inpaint|Edit(?!ing)|Kontext|Fill|Redux|ImageVariation|Pix2Pix|Depth2Img|PaintByExample|Emb2Emb"
        r"|CycleDiffusion|RePaint|LEdits|VisualCloze|Layered|Blip|Marigold|DualGuided",
        "wants an input image",
    ),
    (r"^IF", "is a cascade of pixel stages (DeepFloyd IF), for later"),
    (
        r"UnCLIP|Kandinsky(?![356])|Prior|Wuerstchen|Cascade",
        "is a prior and a decoder in two or more stages, for later",
    ),
    (
        r"PAG|SAG|AttendAndExcite|Panorama|Safe|Semantic|ModelEditing|Paradigms",
        "is another way of sampling; its weights run under the plain pipeline's class",
    ),
    (r"VersatileDiffusion|UniDiffuser", "is several models in one network"),
    (r"KarrasVe", "is a schedule that changes the noise level within a step"),
)
"""What the first pattern that is found in the name says; sentences go on from "a NAME"."""

OTHERWISE = "is a family that is not built yet"

_BASES = frozenset({"DiffusionPipeline", "ModularPipeline", "PipelineQuantizationConfig"})


def why_not(pipeline: str) -> str:
    """Return why a pipeline class that sidebench does not know is not run.

    Examples:
        >>> why_not("WanImageToVideoPipeline"), why_not("FluxInpaintPipeline")
        ('makes videos', 'wants an input image')
    """
    return next((reason for pattern, reason in REASONS if re.search(pattern, pipeline)), OTHERWISE)


def pipeline_classes(names: Iterable[str]) -> list[str]:
    """Return the pipeline classes among the names that diffusers exports; its bases and loaders are none."""
    return sorted(
        name
        for name in names
        if "Pipeline" in name
        and name not in _BASES
        and not name.endswith(("Output", "Blocks"))
        and not name.startswith("AutoPipeline")
    )
