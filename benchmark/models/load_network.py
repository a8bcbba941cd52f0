"""Load one network of transformers or diffusers from a folder, whole or not at all.

Both libraries fill weights that a file lacks with random numbers and only warn. Numbers measured on such a network mean
nothing, so it is refused here, as are weights of another shape than the configuration says.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.config_rules import shown
from ..errors import BadInput

if TYPE_CHECKING:
    import torch

_MOST_LETTERS = 200
"""Of what a library says, in a message of one line."""


def load_whole(cls: Any, place: Path, owner: str, **options: Any) -> Any:
    """Call `cls.from_pretrained` on a local folder and check that every weight was in its files.

    Raises:
        BadInput: the files cannot be loaded, or lack a weight.
    """
    try:
        with quiet(cls.__module__.partition(".")[0]):
            network, info = cls.from_pretrained(place, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # whatever the library finds wrong with the files, they are the user's
        raise BadInput(f"{owner} cannot be loaded: {error}") from error
    lacking = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if lacking:
        raise BadInput(f"{owner}: the files lack {len(lacking)} weights that config.json asks for ({lacking[0]}, ...)")
    return network


def without_weights(cls: Any, config: Mapping[str, Any], file: str) -> Any:
    """Build a network of diffusers on the device "meta", which holds shapes and no values.

    Raises:
        BadInput: the configuration makes no such network; the key is named where one alone is at fault.
    """
    import torch

    def build(content: Mapping[str, Any]) -> Any:
        with torch.device("meta"):
            return cls.from_config(dict(content))

    with quiet("diffusers"):
        try:
            return build(config)
        except Exception as error:  # whatever the library finds wrong with the file, it is the user's
            raise BadInput(
                f"{at_fault(file, config, build)}: diffusers makes no {cls.__name__} of it: {why(error)}"
            ) from None


def at_fault(file: str, config: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], Any]) -> str:
    """Return a file's name, with the key and its value where the attempt works without this one key."""
    for key in config:
        try:
            attempt({other: value for other, value in config.items() if other != key})
        except Exception:  # the fault lies elsewhere, or in several keys together
            continue
        return f"{file}, {key}: is {shown(config[key])}"
    return file


def why(error: Exception) -> str:
    """Return what a library says of an error, as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + ' ...'}"


def from_transformers(
    name: str, place: Path, owner: str, dtype: "torch.dtype", allow_pickle: bool = False, **options: Any
) -> Any:
    """Load a network by its transformers class, frozen and in evaluation mode, on the CPU.

    Raises:
        BadInput: transformers is not installed, or the files cannot be loaded whole.
    """
    transformers = import_transformers(owner)
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
    return BadInput(f"{owner} needs transformers: pip install 'transformers>=4.56'")


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep `transformers` or `diffusers` from listing what is left out on purpose, and from drawing bars on stderr."""
    said = importlib.import_module(f"{library}.utils.logging")
    before, drawn = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(before)
        if drawn:
            said.enable_progress_bar()
