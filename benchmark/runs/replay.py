"""Make candidates of a finished run again from its stored state; `sidebench replay` does it for one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..candidates import Candidates
from ..contracts import Model
from ..data.pair import IN_TRAINING, load_pair
from ..errors import BadInput, BadSetting, UnknownName
from ..files import MADE, difference, read_json, write_atomic
from ..results.run_folder import RunFolder, asked_candidates, believing, stored_batching, stored_pair
from ..sampling.call_attack import Made
from .makers import InProcess, Maker
from .plan import RunPlan, Unit, plan_run
from .victim import load_victim


class Replayed(NamedTuple):
    """One candidate, reproduced."""

    attack: str
    seed: int
    candidate: int
    picture: Path
    compared: bool
    """Whether the run still holds the candidate's image."""
    off: int
    """Largest difference from it in uint8 levels; 0: the same image."""


@believing
def planned_again(
    folder: RunFolder,
    attack: str,
    seeds: Sequence[int],
    pair: str | None = None,
    device: str = "auto",
    defences: Sequence[str] = (),
    model: str | Model | None = None,
    allow_pickle: bool = False,
) -> RunPlan:
    """Return the plan of one attack of a stored run, checked to be the run that it was.

    `attack` is a registered name or `file.py:Class`, in the words of whoever runs the command; `pair` a pair file where
    the pair does not ship; `defences` local files among the run's defences, named again as `file.py:Class`; `model`
    what was attacked in place of the pair's model. What the folder itself names is resolved only if it is registered.

    Raises:
        BadInput: the run cannot be made here as it was; the field that differs is named.
        UnknownName: the run has no such attack and seed.
    """
    from ..registry import find, registered

    manifest = read_json(folder.manifest_file)
    identity, name = manifest["identity"], find("attack", attack).name
    units = {(unit["attack"], unit["seed"]): unit for unit in manifest["units"].values()}
    for seed in seeds:
        if (name, seed) not in units:
            raise UnknownName("attack and seed of this run", f"{name}, {seed}", [f"{a}, {s}" for a, s in units])
    again = {find("defence", each).name: each for each in defences}
    for each in again.keys() - identity["defences"].keys():
        raise UnknownName("defence of this run", each, identity["defences"])
    stored = {k: v for k, v in identity["defences"].items() if not k.startswith(IN_TRAINING)}
    around = {again.get(k) or registered("defence", k): v for k, v in stored.items()}
    plan = plan_run(
        load_pair(pair or stored_pair(folder)),
        attacks=(attack,),
        model=model,
        allow_pickle=allow_pickle,
        defences=tuple(around),
        candidates=asked_candidates(manifest),
        seeds=tuple(seeds),
        measures=identity["measures"],
        settings={name: units[name, seeds[0]]["settings"], **around},
        device=device,
        dtype=identity["protocol"]["dtype"],
    )
    changed = difference(identity, plan.identity())
    for unit in plan.units:
        changed = changed or difference(units[name, unit.seed].get("code"), unit.description()["code"], f"{name}.code")
    if changed:
        raise BadInput(f"the run cannot be made here as it was: {changed}")
    return replace(plan, batching=stored_batching(folder) or plan.batching)


def make_again(folder: RunFolder, plan: RunPlan, unit: Unit, maker: Maker, numbers: Sequence[int]) -> Made:
    """Return these candidates, made from the state in the folder, with what that took."""
    return maker.generate(unit, folder.attack_state(unit.name), Candidates(unit.seed, numbers), plan.sampling)


@believing
def replay(
    folder: RunFolder,
    attack: str,
    candidate: int,
    *,
    seed: int = 0,
    pair: str | None = None,
    device: str = "auto",
    defences: Sequence[str] = (),
    model: str | Model | None = None,
    allow_pickle: bool = False,
    out: Path | None = None,
) -> Replayed:
    """Make one candidate again, write it as PNG (default: replay/ in the run folder) and compare it with the run's.

    Raises:
        BadSetting: the run has no candidate of this number.
        BadInput: as `planned_again`.
    """
    plan = planned_again(folder, attack, (seed,), pair, device, defences, model, allow_pickle)
    if not 0 <= candidate < plan.candidates:
        raise BadSetting(f"{folder.path.name} has candidates 0 to {plan.candidates - 1}, not {candidate}")
    (unit,) = plan.units
    image = make_again(folder, plan, unit, InProcess(load_victim(plan)), [candidate]).images[0]
    target = out or folder.path / "replay" / f"{unit.name}-candidate{candidate}.png"
    _write(image, target)
    if not any(candidate in shard.numbers for shard in folder.image_shards(unit.name)):
        return Replayed(unit.attack.name, seed, candidate, target, compared=False, off=0)
    before = folder.candidate_image(unit.name, candidate)
    off = int((image.int() - before.int()).abs().max())
    return Replayed(unit.attack.name, seed, candidate, target, compared=True, off=off)


def as_text(found: Replayed) -> str:
    """Say what came out, in a sentence."""
    same = "the same image" if not found.off else f"another image, by up to {found.off} of 255 levels"
    if not found.compared:
        same = "made; the run folder holds no images to compare it with"
    return f"{found.attack}, seed {found.seed}, candidate {found.candidate}: {same}\n{found.picture}"


def as_dict(found: Replayed) -> dict[str, Any]:
    """Return the finding as plain values."""
    return {**found._asdict(), "picture": str(found.picture)}


def _write(image: torch.Tensor, target: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("Software", MADE.decode())
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    write_atomic(target, lambda path: picture.save(path, format="PNG", pnginfo=about))
