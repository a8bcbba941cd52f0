"""`sidebench train`: the victim of a pair again, from its recipe (`pixel_recipe.py`, `text_recipe.py`).

It reproduces behaviour, not bytes: training adds up in thread order, so another machine ends in slightly
other weights. The shipped ones are therefore pinned by hash in the pair files. Training-time defences are
options of it (see `Recipe` and `TextRecipe`); the pair file of the new victim records them.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...contracts import Progress
from ...data.pair import (
    IN_TRAINING,
    SHIPPED,
    AnyRecipe,
    DataSource,
    ModelSource,
    Pair,
    TextRecipe,
    moved,
    pair_names,
    write_pair,
)
from ...data.references import load_references
from ...environment import pick_device
from ...errors import BadInput
from ...registry import check_settings
from . import pixel_recipe, text_recipe


def train(
    pair: Pair,
    out: Path,
    device: str,
    progress: Progress,
    *,
    split_seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
    checkpoints: Path | None = None,
) -> Path:
    """Train the pair's victim on its training images and save it as a diffusers pipeline folder.

    `split_seed` replaces the seed of the split into training and held-out images, `changes` other values of the
    recipe: its seed, or a defence. The folder also gets a `pair.yaml`, with which `sidebench run` attacks the new
    victim; its training images are those of the pair, whichever of them a defence left out. A training that was killed
    goes on from `checkpoints` (by default a hidden folder beside `out`), which is deleted at the end.

    Raises:
        BadInput: the pair has no recipe, the folder exists, or the checkpoints are of another training.
        BadSetting: a change is impossible.
    """
    if pair.recipe is None:
        raise BadInput(f"pair {pair.name} has no recipe")
    if out.exists():
        raise BadInput(f"{out} exists already; choose another with --out")
    recipe = check_settings(type(pair.recipe), {**pair.recipe.model_dump(), **(changes or {})}, "train")
    if split_seed is not None:
        split = pair.data.rule.model_copy(update={"seed": split_seed})
        pair = pair.model_copy(update={"data": pair.data.model_copy(update={"split": split})})
    unfinished = out.parent / f".{out.name}-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    kept = checkpoints or out.parent / f".{out.name}-checkpoints"
    _make(pair, recipe, unfinished, kept, device, progress)
    victim = pair.model_copy(
        update={
            "name": _name(pair, recipe, split_seed),
            "title": f"{pair.title}, trained again" + "".join(f", {defence}" for defence in recipe.defences()),
            "model": ModelSource(family=pair.model.family, location="."),
            "recipe": _planted_from(recipe, out),
            "data": _seen_from(pair.data, out),
            "made_by": _command(pair, split_seed, changes or {}),
        }
    )
    write_pair(victim, unfinished / "pair.yaml")
    unfinished.rename(out)
    shutil.rmtree(kept, ignore_errors=True)
    return out


def _make(pair: Pair, recipe: AnyRecipe, out: Path, kept: Path, device: str, progress: Progress) -> None:
    """Train the victim of a recipe and write its pipeline folder; `kept` is for what an interrupted training leaves."""
    references, chosen = load_references(pair), pick_device(device)
    if isinstance(recipe, TextRecipe):
        text_recipe.make(references, recipe, out, chosen, progress, kept)
    else:
        pixel_recipe.make(references, recipe, out, chosen, progress, kept)


def _command(pair: Pair, split_seed: int | None, changes: Mapping[str, Any]) -> str:
    """Return the command that makes the same victim from a pair that ships; of another pair's, what its file says."""
    if pair.name not in pair_names():
        return pair.made_by
    options = {**changes, **({} if split_seed is None else {"split_seed": split_seed})}
    return " ".join(["sidebench train", pair.name, *(f"--{k.replace('_', '-')} {v}" for k, v in options.items())])


def _seen_from(data: DataSource, folder: Path) -> DataSource:
    """Return the source with its paths relative to the folder, where the new pair file lies."""
    return moved(data, lambda path: _relative(path, folder))


def _planted_from(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """Return the recipe with the place of its canaries relative to the folder."""
    if not isinstance(recipe, TextRecipe) or recipe.canaries is None:
        return recipe
    return recipe.model_copy(update={"canaries": _relative(recipe.canaries, folder)})


def _relative(path: str, folder: Path) -> str:
    return path if path.startswith(SHIPPED) else os.path.relpath(path, folder)


def _name(pair: Pair, recipe: AnyRecipe, split_seed: int | None) -> str:
    """Name a new victim after what is new about it."""
    defences = [name.removeprefix(IN_TRAINING) for name in recipe.defences()]
    news = [*defences, *([] if split_seed is None else [f"split{split_seed}"])] or ["again"]
    full = "-".join([pair.name, *news])
    return full if len(full) <= 64 else f"{pair.name}-defended"
