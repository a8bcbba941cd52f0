"""A run as a frozen value: everything that it is, checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import hub
from .contracts import Attack, Defence, Measure, ModelSpec
from .defending import in_order
from .errors import BadInput, BadSetting, TooFew, UnknownName
from .models import inspect_files
from .pairs import ModelSource, Pair
from .protocol import DEFAULT_TIER, TIERS, TOP_K, Protocol, default_measures, make_protocol
from .registry import check_settings, find, make_attack, make_defence, make_measure
from .store import RunFolder, short_hash


@dataclass(frozen=True)
class Unit:
    """One attack under one seed."""

    attack: Attack
    seed: int

    @property
    def name(self) -> str:
        """The unit's name in the run folder."""
        return f"{self.attack.name}.s{self.seed}"

    def settings(self) -> dict[str, Any]:
        """Return the attack's settings as plain values."""
        values: dict[str, Any] = self.attack.settings.model_dump(mode="json")
        return values


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run is, checked before any work."""

    pair: Pair
    model: ModelSpec
    image_size: tuple[int, int, int]
    """(height, width, channels)."""
    protocol: Protocol
    candidates: int
    units: tuple[Unit, ...]
    measures: tuple[Measure, ...]
    defences: tuple[Defence, ...] = ()
    trained_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by name of the defences in the victim's training."""
    parent: Path = Path("runs")
    fresh: bool = False
    reference_model: ModelSpec | None = None
    """What control `reference-model` attacks in the same way."""
    inside: RunFolder | None = None
    """The run that this one is the reference of; None for a run that stands for itself."""

    def reference(self) -> "RunPlan | None":
        """Return the same attacks on the reference model, as a run of its own inside this run's folder."""
        if self.reference_model is None:
            return None
        return replace(
            self,
            pair=self.pair.reference(),
            model=self.reference_model,
            reference_model=None,
            inside=self.folder(),
            fresh=False,
        )

    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.candidates // self.protocol.shard)

    def numbers(self, shard: int) -> range:
        """Return the numbers of the candidates in one shard."""
        start = shard * self.protocol.shard
        return range(start, min(start + self.protocol.shard, self.candidates))

    def defence_settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of every defence by name; their order around the model follows from the names."""
        around = {defence.name: defence.settings.model_dump(mode="json") for defence in self.defences}
        return {**{name: dict(values) for name, values in self.trained_with.items()}, **around}

    def optimised_spaces(self) -> dict[str, list[str]]:
        """Return by defence the descriptor spaces whose measures alone must not judge it."""
        return {defence.name: sorted(defence.optimises) for defence in self.defences}

    def identity(self) -> dict[str, Any]:
        """Return what makes this the same run; attacks and seeds may be added to it."""
        reference = self.reference_model
        return {
            **({"reference_model": _identity_of(reference)} if reference else {}),
            "pair": self.pair.name,
            "pair_revision": self.pair.revision,
            "pair_identity": self.pair.identity(),
            "model": _identity_of(self.model),
            "protocol": self.protocol.model_dump(mode="json"),
            "candidates": self.candidates,
            "measures": [measure.id for measure in self.measures],
            "defences": self.defence_settings(),
        }

    def folder(self) -> RunFolder:
        """Return the run's folder; its name depends on the plan alone."""
        if self.inside is not None:
            return self.inside.reference()
        return RunFolder(self.parent / f"{self.pair.name}-{self.candidates}-{short_hash(self.identity())}")


def plan_run(
    pair: Pair,
    *,
    attacks: Sequence[str] = (),
    defences: Sequence[str] = (),
    model: str | None = None,
    tier: str | None = None,
    candidates: int | None = None,
    seeds: Sequence[int] = (0,),
    measures: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    out: str | Path = "runs",
    fresh: bool = False,
) -> RunPlan:
    """Check everything that can be checked without work and return the plan.

    Without `attacks`, those that the pair names run. `settings` go over the pair's, by attack or defence. `model` takes
    another model than the pair's: a pipeline folder, or a control with known truth (`control:copycat`).

    Raises:
        BadInput: anything that cannot be used, in one line.
    """
    number = _candidate_count(tier, candidates)
    if any(seed < 0 for seed in seeds):
        raise BadSetting(f"a seed must not be negative, was {min(seeds)}")
    kind = check_settings(Protocol, {"micro_batch": 1, "dtype": dtype}, "run").dtype
    where = {"device": str(hub.pick_device(device)), "dtype": kind}
    spec, size = _checked(model_spec(pair, model, Path(out)).model_copy(update=where))
    reference = None
    if pair.reference_model is not None:
        reference, its_size = _checked(_spec_of(pair.reference_model).model_copy(update=where))
        if its_size != size:
            raise BadInput(f"pair {pair.name}: the reference model makes images of another size than the model")
    chosen_attacks = make_attacks(pair, attacks, settings or {})
    around = in_order(make_defences(defences, settings or {}))
    check_names([*attacks, *defences], [*chosen_attacks, *around], settings or {})
    trained_with = pair.recipe.defences() if pair.recipe and model is None else {}
    units = tuple(Unit(attack, seed) for attack in chosen_attacks for seed in dict.fromkeys(seeds))
    for unit in units:
        if number < unit.attack.least_candidates():
            raise TooFew(
                f"{number} candidates are too few for {unit.attack.name}: it needs {unit.attack.least_candidates()}"
            )
    pixels, split = size[0] * size[1], pair.data.split
    ids = measures or pair.measures or default_measures(pixels, held_out=split.held_out > 0)
    chosen = [make_measure(name) for name in ids]
    for measure in chosen:
        measure.check(split.training, split.held_out, pair.allow_dense_neighbours)
        if measure.neighbours > TOP_K:
            raise BadInput(f"measure {measure.id}: a run keeps {TOP_K} neighbours, it needs {measure.neighbours}")
    overrides = {key: value for key, value in pair.protocol.model_dump().items() if value is not None}
    return RunPlan(
        pair=pair,
        model=spec,
        image_size=size,
        protocol=make_protocol(pixels, {**overrides, "dtype": dtype}),
        candidates=number,
        units=units,
        measures=tuple(chosen),
        defences=around,
        trained_with=trained_with,
        parent=Path(out),
        fresh=fresh,
        reference_model=reference,
    )


def model_spec(pair: Pair, model: str | None, out: Path) -> ModelSpec:
    """Return where the model is: the pair's, a folder that the user names, or a control made of the references."""
    if model is None:
        return _spec_of(pair.model)
    if model.startswith("control:"):
        from .models.controls import make_control

        return make_control(model, pair, out / "controls")
    return ModelSpec(family=pair.model.family, location=model)


def _spec_of(source: ModelSource) -> ModelSpec:
    return ModelSpec(family=source.family, location=source.location, sha256=source.sha256)


def _checked(spec: ModelSpec) -> tuple[ModelSpec, tuple[int, int, int]]:
    """Return the specification with the hashes of its files, and the image size (height, width, channels)."""
    files = inspect_files(spec)
    return spec.model_copy(update={"sha256": files.sha256}), files.image_size


def _identity_of(model: ModelSpec) -> dict[str, Any]:
    return {"family": model.family, "sha256": model.sha256}


def _candidate_count(tier: str | None, candidates: int | None) -> int:
    if tier is not None and candidates is not None:
        raise BadSetting("give --tier or --candidates, not both")
    if candidates is not None:
        if candidates < 1:
            raise BadSetting(f"candidates must be at least 1, was {candidates}")
        return candidates
    if (tier or DEFAULT_TIER) not in TIERS:
        raise UnknownName("tier", str(tier), TIERS)
    return TIERS[tier or DEFAULT_TIER]


def make_attacks(pair: Pair, chosen: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Attack]:
    """Build the attacks that were chosen, or those that the pair names, with settings over the pair's.

    Raises:
        BadInput: there is no such attack, setting or value, or two attacks share a name.
    """
    names = list(dict.fromkeys(chosen or pair.attacks))
    if not names:
        raise BadInput(f"pair {pair.name} names no attacks: choose with --attack")
    attacks = []
    for name in names:
        own = pair.attacks[name].settings if name in pair.attacks else {}
        given = {**settings.get(find("attack", name).name, {}), **settings.get(name, {})}
        attacks.append(make_attack(name, {**own, **given}))
    if len({attack.name for attack in attacks}) < len(attacks):
        raise BadInput("two attacks of the same name cannot be in one run")
    return attacks


def make_defences(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Defence]:
    """Build defences with their settings, which are given by registered name or by `file.py:Class`."""
    defences = []
    for name in names:
        given = {**settings.get(find("defence", name).name, {}), **settings.get(name, {})}
        defences.append(make_defence(name, given))
    return defences


def check_names(
    given: Sequence[str], methods: Sequence[Attack | Defence], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse settings for what does not run, and an attack and a defence that share one name."""
    names = [method.name for method in methods]
    if unused := set(settings) - set(given) - set(names):
        raise BadSetting(f"settings for {sorted(unused)[0]!r}, which is not run: {', '.join(names)} are")
    if shared := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{shared[0]} is the name of an attack and of a defence of this run")
