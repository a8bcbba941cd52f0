"""`sidebench tune`: choose a setting on a shadow victim, never on the numbers that are reported.

The shadow victim follows the pair's recipe on images of the tuning part, with a held-out part of its
own; no image of it is in any reported metric. A pair without a recipe sets a block of its images aside
(`data.tuning_block`): its own model is attacked with candidates that no run draws, and scored against that block,
which no run scores against. What was used is stored with the curve, and `sidebench run --tuned FILE` refuses a run
that would report it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..candidates import stream_seed
from ..contracts import Progress
from ..data.pair import ModelSource, Pair
from ..errors import BadInput, BadSetting, RunConflict
from ..files import canonical_json, difference, read_json, write_json
from ..registry import find, make_attack
from ..results.tuning_curve import SCHEMA, Curve, TriedPoint, as_stored
from ..sampling.defended import in_order
from .engine import Engine
from .plan import RunPlan
from .plugins import check_names, make_defences
from .timing import sampling_time
from .tuning_bench import TuningBench


def shadow_pair(pair: Pair, folder: Path, seed: int) -> Pair:
    """Return the pair of a shadow victim: same sizes and recipe, data from the tuning part alone.

    Raises:
        BadInput: the pair has no recipe, or is itself a shadow.
    """
    if pair.recipe is None:
        raise BadInput(
            f"pair {pair.name} has no recipe, so no shadow victim can be trained; "
            f"set images aside with data.tuning_block (seed and share) in the pair file"
        )
    if pair.data.within is not None:
        raise BadInput(f"pair {pair.name} is a shadow itself")
    own_seed = stream_seed(seed, "shadow", 0, pair.name) % 2**31
    split = pair.data.rule.model_copy(update={"seed": own_seed, "pool": 0})
    return pair.model_copy(
        update={
            "name": f"{pair.name}-shadow",
            "control": pair.control if split.held_out else "none",
            "model": ModelSource(location=str(folder)),
            "reference_model": None,
            "data": pair.data.model_copy(update={"split": split, "within": pair.data.rule}),
            "recipe": pair.recipe.model_copy(update={"seed": own_seed}),
        }
    )


def tune(
    pair: Pair,
    attack: str,
    grid: Mapping[str, Sequence[Any]],
    *,
    candidates: int,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    defences: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress,
    announce: Callable[[str], object] | None = None,
    engine: Engine | None = None,
) -> Curve:
    """Try every point of the grid on the shadow victim, storing the curve after each; a second call goes on.

    The last key of the grid varies fastest; where it is a setting of the generation alone, the state is
    prepared once for all its values. With `defences` (their `settings` by name) the victim stands behind them, so
    the attack is tuned by somebody who knows the defence. A pair with a tuning block is attacked itself. `announce` is
    told how much there is to try and, by the victim, how long that may take, which costs a few calls of it; on an
    engine, whose workers load the victim, only the former. An engine prepares and generates, to the same curve.

    Raises:
        UnknownName: the attack has no such setting.
        TooFew: the tuning part is too small for a shadow victim of the pair's size.
        RunConflict: the folder holds another tuning.
    """
    grid = grid or find("attack", attack).tuning_grid
    if not grid or not all(grid.values()):
        raise BadSetting(f"{attack} names no settings to tune: give a grid, values by setting (--try KEY=V1,V2)")
    own = dict(pair.attacks[attack].settings) if attack in pair.attacks else {}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    variants = [make_attack(attack, {**own, **point}) for point in points]
    victim = pair if pair.data.tuning_block is not None else shadow_pair(pair, out / "victim", seed)
    around = in_order(make_defences(defences, settings or {}))
    check_names([attack, *defences], [variants[0], *around], settings or {})
    plan = {"pair": pair.identity(), "attack": attack, "settings": own, "seed": seed, "candidates": candidates}
    if around:
        plan["defences"] = {defence.name: defence.settings.model_dump(mode="json") for defence in around}
    file = curve_file(out, attack, [defence.name for defence in around])
    tried: list[TriedPoint] = []
    if file.exists():
        stored = read_json(file)
        if changed := difference(stored.get("plan"), plan):
            raise RunConflict(f"{file} is of another tuning: {changed}; choose another --out")
        tried = Curve.model_validate(stored["curve"]).points
    done = {canonical_json(point.values): point for point in tried}
    left = sum(canonical_json(values) not in done for values in points)
    trained = victim is pair or Path(victim.model.location).exists()
    if announce is not None and left:
        ahead = "" if trained else "; a shadow victim is trained first"
        announce(f"{left:,} settings, {candidates:,} candidates each{ahead}")
    wanted = [(v, values) for v, values in zip(variants, points, strict=True) if canonical_json(values) not in done]
    bench = TuningBench(victim, out, device, candidates, seed, around, [variant for variant, _ in wanted], progress)
    if announce is not None and left and engine is None:
        behind = f"; what {' and '.join(each.name for each in around)} costs comes on top" if around else ""
        announce(sampling_time(victim, lambda: bench.bare, left * candidates) + behind)

    def curve() -> Curve:
        return Curve(
            attack=attack,
            settings=own,
            used=bench.used,
            on="the tuning block" if victim is pair else "a shadow victim",
            defences=[defence.name for defence in around],
            measure=bench.measure.id,
            candidates=candidates,
            points=list(done.values()),
        )

    for (_, values), result in zip(wanted, bench.tried([values for _, values in wanted], engine), strict=True):
        done[canonical_json(values)] = TriedPoint(values=values, result=result)
        write_json(file, {"schema": SCHEMA, "plan": plan, "curve": curve().model_dump(mode="json")})
    return curve()


def curve_file(out: Path, attack: str, defences: Sequence[str] = ()) -> Path:
    """Return where `tune` stores its curve below a folder.

    >>> curve_file(Path("digits-tuning"), "side", ["eta"]).name
    'side+eta.json'
    """
    return out / f"{'+'.join([attack, *defences])}.json"


def with_curves(plan: RunPlan, curves: Mapping[str, Curve], progress: Progress) -> RunPlan:
    """Return the plan with the curves that its settings come from, to be kept in its run folder; `curves` by file name.

    Raises:
        BadInput: the run would report what a curve was tuned on.
    """
    refuse_own_numbers(plan, curves, progress)
    return replace(plan, tuned=as_stored(curves))


def refuse_own_numbers(plan: RunPlan, curves: Mapping[str, Curve], progress: Progress) -> None:
    """Refuse a run with settings that were tuned on its candidates or on its images; `curves` by file name.

    Raises:
        BadInput: what both have is named.
    """
    if not curves:
        return
    from ..data.references import load_references

    references = load_references(plan.pair, progress)
    own = {int(row) for part in (references.training, references.held_out) for row in part.rows}
    for name, curve in curves.items():
        used = curve.used
        assert used is not None
        if used.data == references.fingerprint and (shared := own & set(used.rows)):
            raise BadInput(
                f"{name} was tuned on {len(shared):,} of the {len(own):,} images that this run would report: tune on a "
                f"shadow victim, or set images aside with data.tuning_block in the pair file"
            )
        if used.model == plan.model.sha256 and used.seed in {unit.seed for unit in plan.units}:
            raise BadInput(f"{name} was tuned on candidates of this model under seed {used.seed}: take another --seed")
