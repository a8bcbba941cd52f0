"""A model of somebody's own: from a local file, an installed package, or an object of this process.

What is named is called with the tensors of its `weights` file, or with nothing, and returns a `Model`. Identity holds
its source with what that imports from its folder, its weights file, and the tensors of the model itself, so that a
model whose weights come from elsewhere, or are drawn again each time, is noticed too.
"""

import copy
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import environment
from ..contracts import Model, ModelSpec
from ..data.pair import beside, is_own_location
from ..data.pipeline_folder import PICKLES
from ..errors import BadInput, UnsafeFile, blaming
from ..files import content_sha256, sha256
from ..registry import code_of, find, importing_beside, is_local, local_file, source_of, sources_beside
from .torch_module import TorchModel
from .try_model import check_attributes, shape_asked, try_model

TENSORS, LIVE = "tensors", "live module"
"""Under these names identity holds the hash of a model's tensors, and of an object of this process."""

SHAPES_DIFFER = (RuntimeError, ValueError, AssertionError)
"""What torch and those who build on it raise of an input of the wrong shape, among other things."""

_PASSING = frozenset({"owner", "spec", "device", "dtype", "prompts", "planted", "labelled"})
"""Attributes that are no part of what a model is."""


class OwnFacts(NamedTuple):
    """What is known of a model of somebody's own once it was built."""

    family: str
    """pixel, latent or text, by its shapes and its conditioning."""
    sha256: dict[str, str]


def owner_of(location: str) -> str:
    """Return how messages name such a model: without the folder that its file lies in."""
    return f"{Path(location.rpartition(':')[0]).name}:{location.rpartition(':')[2]}" if is_local(location) else location


def source_folder(spec: ModelSpec) -> Path | None:
    """Return where the code of somebody's own model lies, to find its lines in a traceback; None for any other."""
    if spec.live is not None or not is_own_location(spec.location):
        return None
    if is_local(spec.location):
        return local_file(spec.location).parent
    return source_of(find("model", spec.location))


def facts_of(spec: ModelSpec) -> OwnFacts:
    """Build a model on the CPU and say what it is; nothing is tried.

    Raises:
        BadInput: it cannot be built.
        UnsafeFile: a file is a pickle, or not the pinned one.
    """
    model = _build(spec.model_copy(update={"device": "cpu", "dtype": "float32"}))
    return OwnFacts(_family(model), model.spec.sha256)


def load_own(spec: ModelSpec) -> Model:
    """Build a model and put it on its device.

    Raises:
        BadInput: it cannot be built, or is another one than was planned.
        UnsafeFile: a file is a pickle, or not the pinned one.
    """
    return _build(spec)


def load_tried(spec: ModelSpec) -> Model:
    """Build a model and try it on noise, so that what does not work is said before any work.

    Raises:
        BadInput: it cannot be built, or does not do what the contract says.
        UnsafeFile: a file is a pickle, or not the pinned one.
    """
    model = _build(spec)
    owner = owner_of(spec.location)
    try:
        with blaming(f"model {owner}", BadInput, source_folder(spec)):
            try_model(model, owner)
    except BadInput as error:
        if isinstance(model, TorchModel) and isinstance(error.__cause__, SHAPES_DIFFER):
            raise BadInput(f"{error}; {shape_asked(model)}") from error.__cause__
        raise
    return model


def live_spec(model: Model) -> ModelSpec:
    """Return the specification of a model that is an object of this process."""
    owner = str(getattr(model, "owner", type(model).__name__))
    check_attributes(model, owner)
    return ModelSpec(family=_family(model), location=owner, sha256={LIVE: _digest(model, code=True)}, live=model)


def _family(model: Model) -> str:
    if model.conditioning == "text":
        return "text"
    return "pixel" if tuple(model.sample_shape) == tuple(model.image_shape) else "latent"


# ---- Building ---------------------------------------------------------------------------------------


def _build(spec: ModelSpec) -> Model:
    owner = owner_of(spec.location)
    if spec.live is not None:
        _check_pinned(owner, spec.sha256, {LIVE: _digest(spec.live, code=True)})
        return _placed(copy.copy(spec.live), spec, spec.sha256, owner, shared=True)
    hashes = _code(spec.location)
    _check_pinned(owner, spec.sha256, hashes)
    found = find("model", spec.location)
    file = _weights_file(found, owner)
    if file is not None:
        hashes[file.name] = sha256(file)
        _check_pinned(owner, spec.sha256, hashes)
    model = _called(found, () if file is None else (_read(file, owner, spec.allow_pickle),), owner, spec)
    hashes[TENSORS] = _digest(model)
    if spec.sha256.get(TENSORS, hashes[TENSORS]) != hashes[TENSORS]:
        raise BadInput(f"model {owner} has other weights than before: load them from a file, named as `weights`")
    return _placed(model, spec, hashes, owner)


def _code(location: str) -> dict[str, str]:
    """Return the SHA-256 of a model's source by name: its file and what this imports beside it, or its package."""
    if is_local(location):
        file = local_file(location)
        return {source.relative_to(file.parent).as_posix(): sha256(source) for source in sources_beside(file)}
    code = code_of(find("model", location))
    return {str(code["package"]): code.get("sha256") or content_sha256(code)}


def _check_pinned(owner: str, pinned: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, digest in found.items():
        if pinned.get(name, digest) == digest:
            continue
        if name == LIVE:
            raise BadInput(f"model {owner} has changed since the run was planned: plan it again")
        raise UnsafeFile(f"model {owner}: SHA-256 of {name} is {digest[:16]}..., pinned is {pinned[name][:16]}...")


def _weights_file(found: Any, owner: str) -> Path | None:
    """Return the file of tensors that a model names, beside its source.

    Raises:
        BadInput: there is no such file.
    """
    named = getattr(found, "weights", None)
    if named is None:
        return None
    if not isinstance(named, str | Path):
        raise BadInput(f"model {owner}: `weights` names a file, was a {type(named).__name__}")
    source = Path(sys.modules[found.__module__].__file__ or "")
    file = Path(beside(source.parent, str(named)))
    if not file.is_file():
        raise BadInput(f"model {owner}: no weights file {named} beside {source.name}")
    return file


def _read(file: Path, owner: str, allow_pickle: bool) -> Any:
    """Read a file of tensors.

    Raises:
        UnsafeFile: it is a pickle, and nobody allowed one.
        BadInput: it cannot be read.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise BadInput(f"model {owner}: {file.name} cannot be read as safetensors: {error}") from None
    if file.suffix not in PICKLES:
        raise BadInput(f"model {owner}: weights are a .safetensors file (or {', '.join(PICKLES)}), was {file.name}")
    if not allow_pickle:
        raise UnsafeFile(
            f"model {owner}: {file.name} is a pickle; save the tensors with safetensors.torch.save_file, or "
            f"--allow-pickle if you trust it"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error of its own for a bad file
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise BadInput(
            f"model {owner}: {file.name} cannot be read as tensors alone ({first}); save its state_dict with "
            f"safetensors.torch.save_file"
        ) from error


def _called(found: Any, given: tuple[Any, ...], owner: str, spec: ModelSpec) -> Model:
    """Call what was named.

    Raises:
        BadInput: it cannot be called so, fails, or returns something else.
    """
    try:
        inspect.signature(found).bind(*given)
    except TypeError as error:
        said = "with the tensors of its weights file" if given else "with nothing, since it names no `weights`"
        raise BadInput(f"model {owner} is called {said}: {error}") from None
    folder = importing_beside(local_file(spec.location)) if is_local(spec.location) else nullcontext()
    with blaming(f"model {owner}", BadInput, source_folder(spec)), folder:
        model = found(*given)
    if isinstance(model, nn.Module):
        raise BadInput(f"model {owner} returned a torch module: return sidebench.from_torch(module, ...)")
    if not isinstance(model, Model):
        raise BadInput(f"model {owner} returned a {type(model).__name__}, not a sidebench.Model")
    check_attributes(model, owner)
    return model


def _placed(model: Model, spec: ModelSpec, hashes: Mapping[str, str], owner: str, *, shared: bool = False) -> Model:
    """Put a model on the device and in the precision of its specification; a `shared` one's modules are copied."""
    device, dtype = environment.pick_device(spec.device), getattr(torch, spec.dtype)
    for key, value in vars(model).items():
        if isinstance(value, nn.Module):
            setattr(model, key, (copy.deepcopy(value) if shared else value).to(device).eval().requires_grad_(False))
        elif isinstance(value, Tensor):
            setattr(model, key, value.to(device))
    if isinstance(model, TorchModel):
        model.put_on(device, dtype)
    elif spec.dtype != "float32":
        raise BadInput(f"model {owner} is no sidebench.from_torch, so its precision is its own: leave --dtype out")
    model.device = device
    model.spec = spec.model_copy(update={"sha256": dict(hashes)})
    setattr(model, "owner", owner)  # noqa: B010 - no part of the contract
    return model


# ---- Identity ---------------------------------------------------------------------------------------


def _digest(model: Model, *, code: bool = False) -> str:
    """Return one SHA-256 over a model's tensors and plain values, and with `code` over its classes' source too."""
    total = hashlib.sha256()
    for key, value in sorted(vars(model).items()):
        if key in _PASSING or key.startswith("_"):
            continue
        if isinstance(value, nn.Module):
            for name, tensor in sorted(value.state_dict().items()):
                _add(total, f"{key}.{name}", tensor)
        elif isinstance(value, Tensor):
            _add(total, key, value)
        else:
            total.update(f"{key} {_as_json(value)}\n".encode())
    for source in _sources(model) if code else ():
        total.update(source.encode())
    return total.hexdigest()


def _add(total: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name} {tuple(plain.shape)} {plain.dtype}\n".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    else:  # a module may keep other things in its state
        total.update(f"{name} {_as_json(value)}\n".encode())


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return type(value).__name__


def _sources(model: Model) -> Iterable[str]:
    """Yield the source of a model's class, of its modules' and of its functions, where it can be read."""
    values = vars(model).values()
    modules = [part for value in values if isinstance(value, nn.Module) for part in value.modules()]
    things: list[Any] = [type(model), *map(type, modules), *filter(inspect.isfunction, values)]
    named = {f"{thing.__module__}.{thing.__qualname__}": thing for thing in things}
    for name, thing in sorted(named.items()):
        if not name.startswith("torch."):
            try:
                yield f"{name}\n{_source_of_class(thing) if isinstance(thing, type) else inspect.getsource(thing)}"
            except (OSError, TypeError):
                yield name


@functools.lru_cache(maxsize=512)
def _source_of_class(kind: type) -> str:
    """Return a class's source, for which the whole file is parsed: a U-Net is of ten classes.

    A class that is defined a second time, in a notebook say, is another one.
    """
    return inspect.getsource(kind)
