"""`sidebench tune`: choose a setting on a shadow victim, never on the numbers that are reported.

The shadow victim follows the pair's recipe on images of the tuning part, with a held-out part of its
own; no image of it is in any reported metric.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from . import hub
from .contracts import Attack, Budget, ModelSpec, Progress
from .errors import BadInput, BadSetting, RunConflict, UnknownName
from .pairs import ModelSource, Pair
from .protocol import make_protocol
from .registry import make_attack, make_measure
from .results import BandResult, UnitScores, measure_result
from .store import MemoryCheckpoints, difference, read_json, write_json
from .streams import Candidates, stream_seed

if TYPE_CHECKING:
    from .contracts import AttackState, Model

SCHEMA = "sidebench-tuning/1"


class Point(BaseModel):
    """One value of the setting and what it found on the shadow victim."""

    value: Any
    result: BandResult


class Curve(BaseModel):
    """A finished tuning: every value tried and the one chosen."""

    attack: str
    key: str
    measure: str
    candidates: int
    points: list[Point]

    def best(self) -> Point:
        """Return the point with the highest excess AMS, the earlier one on a tie."""
        return max(self.points, key=lambda point: point.result.excess.value)


def shadow_pair(pair: Pair, folder: Path, seed: int) -> Pair:
    """Return the pair of a shadow victim: same sizes and recipe, data from the tuning part alone.

    Raises:
        BadInput: the pair has no recipe, or is itself a shadow.
    """
    if pair.recipe is None:
        raise BadInput(f"pair {pair.name} has no recipe, so no shadow victim can be trained")
    if pair.data.within is not None:
        raise BadInput(f"pair {pair.name} is a shadow itself")
    own_seed = stream_seed(seed, "shadow", 0, pair.name) % 2**31
    split = pair.data.split.model_copy(update={"seed": own_seed, "pool": 0})
    return pair.model_copy(
        update={
            "name": f"{pair.name}-shadow",
            "model": ModelSource(location=str(folder)),
            "data": pair.data.model_copy(update={"split": split, "within": pair.data.split}),
            "recipe": pair.recipe.model_copy(update={"seed": own_seed}),
        }
    )


def tune(
    pair: Pair,
    attack: str,
    key: str,
    values: Sequence[Any],
    *,
    candidates: int,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    progress: Progress,
) -> Curve:
    """Try every value on the shadow victim, storing the curve after each; a second call goes on.

    Raises:
        UnknownName: the attack has no such setting.
        TooFew: the tuning part is too small for a shadow victim of the pair's size.
        RunConflict: the folder holds another tuning.
    """
    if not values:
        raise BadSetting("no values to try")
    own = dict(pair.attacks[attack].settings) if attack in pair.attacks else {}
    variants = [make_attack(attack, {**own, key: value}) for value in values]
    if key not in variants[0].Settings.model_fields:
        raise UnknownName(f"setting of {attack}", key, variants[0].Settings.model_fields)
    shadow = shadow_pair(pair, out / "victim", seed)
    bench = _Bench(shadow, device, candidates, seed, progress)
    plan = {
        "pair": pair.identity(),
        "attack": attack,
        "settings": own,
        "key": key,
        "seed": seed,
        "candidates": candidates,
    }
    file = out / f"{attack}.{key}.json"
    curve = Curve(attack=attack, key=key, measure=bench.measure.id, candidates=candidates, points=[])
    if file.exists():
        stored = read_json(file)
        if changed := difference(stored["plan"], plan):
            raise RunConflict(f"{file} is of another tuning: {changed}; choose another --out")
        curve = Curve.model_validate(stored["curve"])
    for variant, value in zip(variants, values, strict=True):
        if value in [point.value for point in curve.points]:
            continue
        curve.points.append(Point(value=value, result=bench.try_out(variant)))
        write_json(file, {"schema": SCHEMA, "plan": plan, "curve": curve.model_dump(mode="json")})
    return curve


def as_text(curve: Curve) -> str:
    """Return the curve as a table, and the choice in words."""
    from tabulate import tabulate

    from .report import percent

    rows = [
        {
            curve.key: point.value,
            "AMS": percent(point.result.training.ams),
            "held-out AMS": percent(point.result.held_out.ams),
            "excess": percent(point.result.excess),
            "unique groups": point.result.training.groups,
        }
        for point in curve.points
    ]
    band = curve.points[0].result.band
    head = f"{curve.attack} on a shadow victim, {curve.candidates:,} candidates, {curve.measure}, band {band}"
    chosen = f"highest excess at {curve.key} = {curve.best().value}"
    return "\n".join([head, tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True), chosen])


class _Bench:
    """The shadow victim with its references, ready to try attacks on."""

    def __init__(self, shadow: Pair, device: str, candidates: int, seed: int, progress: Progress) -> None:
        from .models import load_model
        from .references import load_references
        from .scoring import Scorer
        from .zoo.recipe import train

        self.candidates, self.seed, self.progress = candidates, seed, progress
        self.references = load_references(shadow)
        folder = Path(shadow.model.location)
        if not folder.exists():
            train(shadow, folder, device, progress)
        height, width, _ = hub.image_size(hub.locate(str(folder)))
        self.protocol = make_protocol(height * width, {})
        self.measure = make_measure(shadow.measures[0])
        if not self.measure.bands:
            raise BadInput(f"{shadow.name}: the first measure has no fixed bands to tune by")
        spec = ModelSpec(family=shadow.model.family, location=str(folder), device=str(hub.pick_device(device)))
        self.model: Model = load_model(spec)
        self.scorer: Scorer = Scorer(self.references, [self.measure], self.protocol.top_k, self.model.device)
        self._prepared: tuple[dict[str, Any], AttackState] | None = None

    def try_out(self, attack: Attack) -> BandResult:
        """Return the closest band's result of this attack."""
        import numpy as np

        from .runner import make_candidates

        state = self._state(attack)
        shards = []
        for batch in Candidates(self.seed, range(self.candidates)).batches(self.protocol.shard):
            images, nan, _, _ = make_candidates(attack, self.model, state, batch, self.protocol)
            shards.append(self.scorer.score(images, np.asarray(batch.numbers), nan.numpy(), self.measure.space))
            self.progress(f"candidates, {attack.settings!r}"[:60], max(batch.numbers) + 1, self.candidates)
        groups = {"training": self.references.training.groups, "held_out": self.references.held_out.groups}
        scores = UnitScores(shards, [self.measure])
        return measure_result(attack.name, self.seed, self.measure, scores, groups).bands[0]  # type: ignore[arg-type]

    def _state(self, attack: Attack) -> "AttackState":
        """Prepare the attack, or take the state of one that differs in generation settings only."""
        from .runner import prepare_attack

        matters = attack.settings.model_dump(exclude=attack.generation_settings)
        if self._prepared is None or self._prepared[0] != matters:
            budget = Budget(self.seed, self.candidates, MemoryCheckpoints(), self.progress)
            self._prepared = matters, prepare_attack(attack, self.model, self.protocol, budget)[0]
        return self._prepared[1]
