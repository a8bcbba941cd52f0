"""Load one network of transformers or diffusers from a folder, whole or not at all.

Both libraries fill weights that a file lacks with random numbers and only warn. Numbers measured on such a network mean
nothing, so it is refused here, as are weights of another shape than the configuration says.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    import torch


def load_whole(cls: Any, place: Path, owner: str, **options: Any) -> Any:
    """Call `cls.from_pretrained` on a local folder and check that every weight was in its files.

    Raises:
        BadInput: the files cannot be loaded, or lack a weight.
    """
    try:
        with _without_bars(cls):
            network, info = cls.from_pretrained(place, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # whatever the library finds wrong with the files, they are the user's
        raise BadInput(f"{owner} cannot be loaded: {error}") from error
    lacking = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if lacking:
        raise BadInput(f"{owner}: the files lack {len(lacking)} weights that config.json asks for ({lacking[0]}, ...)")
    return network


def from_transformers(
    name: str, place: Path, owner: str, dtype: "torch.dtype", allow_pickle: bool = False, **options: Any
) -> Any:
    """Load a network by its transformers class, frozen and in evaluation mode, on the CPU.

    Raises:
        BadInput: transformers is not installed, or the files cannot be loaded whole.
    """
    transformers = import_transformers(owner)
    with quiet(transformers):
        options = {**options, "use_safetensors": not allow_pickle, "dtype": dtype}
        return load_whole(getattr(transformers, name), place, owner, **options).eval().requires_grad_(False)


def need_transformers(owner: str) -> None:
    """Raise what `import_transformers` would, without the seconds that an import takes.

    Raises:
        BadInput: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise _not_installed(owner)


def import_transformers(owner: str) -> Any:
    """Return the module, or say how to install it.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise _not_installed(owner) from None
    return transformers


def _not_installed(owner: str) -> BadInput:
    return BadInput(f"{owner} needs transformers: pip install 'sidebench[text]'")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from listing the weights of parts that are left out on purpose, and from drawing bars."""
    before, bars = transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@contextmanager
def _without_bars(cls: Any) -> Iterator[None]:
    """Keep the library of a network from drawing a bar of its shards on stderr."""
    said = importlib.import_module(f"{cls.__module__.partition('.')[0]}.utils.logging")
    drawn = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            said.enable_progress_bar()
