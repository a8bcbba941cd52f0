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
from typing import TYPE_CHECKING, Any

from .. import environment
from ..candidates import Candidates, stream_seed
from ..contracts import Attack, Budget, Defence, ModelSpec, Progress
from ..data.pair import ModelSource, Pair
from ..data.references import shared_groups
from ..errors import BadInput, BadSetting, RunConflict, TooFew
from ..files import canonical_json, difference, read_json, write_json
from ..protocol import TOP_K, batching, default_measures
from ..registry import find, make_attack, make_measure
from ..results.checkpoints import FolderCheckpoints, MemoryCheckpoints
from ..results.rates import measure_result
from ..results.schema import BandResult
from ..results.tuning_curve import SCHEMA, Curve, TriedPoint, Used, as_stored
from ..results.unit_scores import UnitScores
from ..sampling.defended import defend, in_order
from .batching import sampling_of
from .plan import RunPlan
from .plugins import check_names, make_defences
from .timing import sampling_time

if TYPE_CHECKING:
    from ..contracts import AttackState, Model


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
) -> Curve:
    """Try every point of the grid on the shadow victim, storing the curve after each; a second call goes on.

    The last key of the grid varies fastest; where it is a setting of the generation alone, the state is
    prepared once for all its values. With `defences` (their `settings` by name) the victim stands behind them, so
    the attack is tuned by somebody who knows the defence. A pair with a tuning block is attacked itself. `announce` is
    told how much there is to try and, by the victim, how long that may take, which costs a few calls of it.

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
    bench = _Bench(victim, out, device, candidates, seed, around, progress)
    if announce is not None and left:
        behind = f"; what {' and '.join(each.name for each in around)} costs comes on top" if around else ""
        announce(sampling_time(victim, lambda: bench.bare, left * candidates) + behind)
    for variant, values in zip(variants, points, strict=True):
        if canonical_json(values) not in done:
            done[canonical_json(values)] = TriedPoint(values=values, result=bench.try_out(variant, values))
        curve = Curve(
            attack=attack,
            settings=own,
            used=bench.used,
            on="the tuning block" if victim is pair else "a shadow victim",
            defences=[defence.name for defence in around],
            measure=bench.measure.id,
            candidates=candidates,
            points=list(done.values()),
        )
        write_json(file, {"schema": SCHEMA, "plan": plan, "curve": curve.model_dump(mode="json")})
    return curve


def curve_file(out: Path, attack: str, defences: Sequence[str] = ()) -> Path:
    """Return where `tune` stores its curve below a folder.

    >>> curve_file(Path("digits-tuning"), "side", ["eta"]).name
    'side+eta.json'
    """
    return out / f"{'+'.join([attack, *defences])}.json"


class _Bench:
    """The victim with its references, ready to try attacks on."""

    def __init__(
        self,
        pair: Pair,
        out: Path,
        device: str,
        candidates: int,
        seed: int,
        defences: Sequence[Defence],
        progress: Progress,
    ) -> None:
        from ..data.references import load_references
        from ..measures.output_path import OutputPath
        from ..measures.scorer import Scorer
        from ..models import WITH_AUTOENCODER, load_model

        self.candidates, self.progress = candidates, progress
        block = pair.data.tuning_block is not None
        # No run has such a seed by chance, so candidates of the pair's own model are never those of a run.
        self.seed = stream_seed(seed, "tuning", 0, pair.name) % 2**31 if block else seed
        try:
            self.references = load_references(pair, tuning=block)
        except TooFew as error:
            if block:
                raise
            raise TooFew(
                f"pair {pair.name.removesuffix('-shadow')} leaves too few images for a shadow victim, which is trained "
                f"and held out on as many as the pair's own ({error}); in a pair file of yours, set a block aside with "
                "data.tuning_block"
            ) from None
        self.samples = FolderCheckpoints(out / "samples")
        spec = self._spec(pair, out, device)
        self.bare: Model = load_model(spec)
        height, width = self.bare.image_shape[1:]
        training, held_out = self.references.training, self.references.held_out
        smallest = None if pair.allow_dense_neighbours else min(len(training), len(held_out) or len(training))
        default = default_measures(height * width, held_out=len(held_out) > 0, smallest=smallest)
        self.measure = make_measure((pair.measures or default)[0])
        if not self.measure.bands:
            raise BadInput(f"{pair.name}: the first measure has no fixed bands to tune by")
        self.measure.check(len(training), len(held_out), pair.allow_dense_neighbours)
        self.sampling = sampling_of(pair, self.bare, candidates)
        self.model: Model = defend(self.bare, defences, self.sampling.sampler.name, training.floats)
        autoencoder = spec.family in WITH_AUTOENCODER
        path = OutputPath(lambda: self.model, spec.content(), autoencoder=autoencoder)
        self.scorer: Scorer = Scorer(self.references, [self.measure], TOP_K, self.model.device, path)
        rows = sorted(int(row) for part in (training, held_out) for row in part.rows)
        self.used = Used(model=spec.sha256, seed=self.seed, data=self.references.fingerprint, rows=rows)
        self._prepared: tuple[dict[str, Any], AttackState] | None = None

    def _spec(self, pair: Pair, out: Path, device: str) -> ModelSpec:
        """Return the pair's own model, or that of the shadow victim, trained if it is not there yet."""
        from ..models import inspect_files
        from ..models.find_model import find_model
        from ..models.zoo.train import train

        if pair.data.tuning_block is not None:
            spec = find_model(pair, None, out).spec
        else:
            folder = Path(pair.model.location)
            if not folder.exists():
                train(pair, folder, device, self.progress)
            spec = ModelSpec(family=pair.model.family, location=str(folder))
        hashes = inspect_files(spec).sha256
        return spec.model_copy(update={"sha256": hashes, "device": str(environment.pick_device(device))})

    def try_out(self, attack: Attack, values: Mapping[str, Any]) -> BandResult:
        """Return the closest band's result of this attack."""
        import numpy as np

        from ..sampling.call_attack import make_candidates

        state = self._state(attack)
        label = ", ".join(f"{key} = {value}" for key, value in values.items())
        shards = []
        for batch in Candidates(self.seed, range(self.candidates)).batches(batching(self.sampling.micro_batch).shard):
            made = make_candidates(attack, self.model, state, batch, self.sampling)
            numbers, broken = np.asarray(batch.numbers), made.nan.numpy()
            shards.append(self.scorer.score(made.images, numbers, broken, self.measure.space))
            self.progress(f"candidates at {label}", max(batch.numbers) + 1, self.candidates)
        groups = self.references.groups()
        scores = UnitScores(shards, [self.measure], shared_groups(groups))
        return measure_result(attack.name, self.seed, self.measure, scores, groups).bands[0]

    def _state(self, attack: Attack) -> "AttackState":
        """Prepare the attack, or take the state of one that differs in generation settings only."""
        from ..sampling.call_attack import prepare_attack

        matters = attack.settings.model_dump(exclude=attack.generation_settings)
        if self._prepared is None or self._prepared[0] != matters:
            budget = Budget(self.seed, self.candidates, MemoryCheckpoints(), self.progress)
            self._prepared = matters, prepare_attack(attack, self.model, self.sampling, budget, self.samples).state
        return self._prepared[1]


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
