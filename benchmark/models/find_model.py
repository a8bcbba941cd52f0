"""From what a pair or a user names to the files of one model."""

from pathlib import Path
from typing import NamedTuple

from .. import files
from ..contracts import ImageForm, LoraSpec, Model, ModelSpec
from ..data import model_files, pipeline_folder
from ..data.given_images import form_of
from ..data.model_files import fetch_lora, fetch_model
from ..data.pair import LoraSource, ModelSource, Pair, is_own_location, named_model
from ..errors import BadInput


class FoundModel(NamedTuple):
    """A model's files, and which commit of which repository they are."""

    spec: ModelSpec
    source: dict[str, dict[str, str]]


def find_model(pair: Pair, model: str | Model | None, out: Path, allow_pickle: bool = False) -> FoundModel:
    """Find the pair's model, or the one that the user names or holds; what is not there is fetched from the Hub."""
    if isinstance(model, Model):
        from .own_model import live_spec

        return FoundModel(live_spec(model), {})
    if model is None:
        return find_source(pair.model, pair.name, allow_pickle, form_of(pair.data))
    if model.startswith("control:"):
        from .controls import make_control

        return FoundModel(make_control(model, pair, out / "controls"), {})
    return find_source(named_model(model), None, allow_pickle, form_of(pair.data))


def find_source(own: ModelSource, pair: str | None, allow_pickle: bool, form: ImageForm | None = None) -> FoundModel:
    """Find a model's files; one that a pair names must be of the family that the pair says.

    Images that exist already are decoded to `form`, or to what the first of them is.
    """
    if own.family == "images":
        return FoundModel(ModelSpec(family="images", location=own.location, sha256=own.sha256, form=form), {})
    if is_own_location(own.location):
        return FoundModel(_own_spec(own, pair, allow_pickle), {})
    folder, source = own.location, {}
    if own.repo is not None:
        fetched = fetch_model(own, allow_pickle)
        folder, source = str(fetched.unchanged() / own.subfolder), {"model": fetched.origin()}
    family = pipeline_folder.read_folder(model_files.locate(folder))[0].family
    if pair is not None and family != own.family:
        raise BadInput(f"pair {pair}: the model is of family {family}, the pair says {own.family}")
    lora = None
    if own.lora is not None:
        lora, origin = _find_lora(own.lora)
        source = {**source, **origin}
    spec = ModelSpec(
        family=family,
        location=folder,
        sha256=own.sha256,
        variant=own.variant,
        allow_pickle=allow_pickle,
        lora=lora,
    )
    return FoundModel(spec, source)


def _own_spec(own: ModelSource, pair: str | None, allow_pickle: bool) -> ModelSpec:
    """Return the specification of a model of somebody's own, which is built to know its family."""
    from .own_model import facts_of

    if own.lora is not None:
        raise BadInput(f"{own.location}: a LoRA goes on a pipeline; put it on the module itself")
    spec = ModelSpec(family=own.family, location=own.location, sha256=own.sha256, allow_pickle=allow_pickle)
    found = facts_of(spec)
    if pair is not None and found.family != own.family:
        raise BadInput(f"pair {pair}: the model is of family {found.family}, the pair says {own.family}")
    return spec.model_copy(update={"family": found.family, "sha256": {**own.sha256, **found.sha256}})


def _find_lora(own: LoraSource) -> tuple[LoraSpec, dict[str, dict[str, str]]]:
    """Find a LoRA's file and its hash, which must be the pinned one, and where it came from."""
    origin = {}
    if own.repo is not None:
        fetched = fetch_lora(own)
        (name,) = fetched.sizes
        file, origin = fetched.unchanged() / name, {"lora": fetched.origin()}
    else:
        file = place = Path(own.location)
        if place.is_dir():
            file = place / pipeline_folder.lora_file(place.name, [found.name for found in place.iterdir()], own.file)
        if file.suffix != ".safetensors" or not file.is_file():
            raise BadInput(f"no LoRA at {place.name}: give a safetensors file, or a folder with one")
    digest = files.sha256(file)
    if own.sha256 is not None:
        model_files.check_pinned(file, own.sha256, f"LoRA {own.repo or file.name}")
    return LoraSpec(location=str(file), sha256=digest, scale=own.scale), origin
