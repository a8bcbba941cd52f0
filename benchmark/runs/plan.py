"""A run as a frozen value: everything that it is, checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import environment
from ..contracts import Attack, Defence, Measure, Model, ModelSpec, Progress, VictimFacts
from ..data import model_files
from ..data.dataset_files import fetch_data
from ..data.given_images import form_of
from ..data.pair import Pair
from ..data.references import counts, stored_sizes
from ..errors import BadInput, BadSetting, TooFew, UnknownName, WrongImages
from ..files import short_hash
from ..models import ModelFiles, inspect_files, is_own
from ..models.find_model import find_model, find_source
from ..models.load_network import need_transformers
from ..models.try_model import shape_asked
from ..progress import silent
from ..protocol import DEFAULT_TIER, TIERS, TOP_K, Batching, Protocol, Sampling
from ..registry import check_settings, code_of, find, layers
from ..results.manifest import MOST_CANDIDATES
from ..results.run_folder import RunFolder, unit_name
from ..sampling.defended import check_fit, in_order
from ..sampling.try_sampler import try_sampler
from . import batching
from .plugins import (
    check_autoencoder,
    check_captions,
    check_conditioning,
    check_configs,
    check_family,
    check_names,
    make_attacks,
    make_defences,
    make_measures,
    try_measure,
)


@dataclass(frozen=True)
class Unit:
    """One attack under one seed."""

    attack: Attack
    seed: int

    @property
    def name(self) -> str:
        """The unit's name in the run folder."""
        return unit_name(self.attack.name, self.seed)

    def settings(self) -> dict[str, Any]:
        """Return the attack's settings as plain values."""
        values: dict[str, Any] = self.attack.settings.model_dump(mode="json")
        return values

    def description(self) -> dict[str, Any]:
        """Return what makes this the same unit, as a manifest holds it."""
        return {
            "attack": self.attack.name,
            "access": self.attack.access,
            "seed": self.seed,
            "settings": self.settings(),
            "code": code_of(type(self.attack)),
            # Left out at 1, so that the units there are stay the same.
            **({"version": self.attack.version} if self.attack.version > 1 else {}),
            **({} if (rated := self.attack.caption_filter()) is None else {"filter": rated._asdict()}),
        }


@dataclass(frozen=True, repr=False)
class RunPlan:
    """Everything that a run is, checked before any work."""

    pair: Pair
    model: ModelSpec
    image_size: tuple[int, int, int]
    """(height, width, channels)."""
    protocol: Protocol
    batching: Batching
    candidates: int
    units: tuple[Unit, ...]
    measures: tuple[Measure, ...]
    defences: tuple[Defence, ...] = ()
    trained_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by name of the defences in the victim's training."""
    parent: Path = Path("runs")
    fresh: bool = False
    fresh_attacks: tuple[str, ...] = ()
    """Attacks of the plan that start over, whatever the folder holds of them."""
    reference_model: ModelSpec | None = None
    """What control `reference-model` attacks in the same way."""
    inside: RunFolder | None = None
    """The run that this one is the reference of; None for a run that stands for itself."""
    left_out: tuple[str, ...] = ()
    """Components that the pipeline has and that are not loaded, such as a safety checker."""
    measure_weights: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by name of the networks that the measures read."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By attack the stored curve that its settings come from (`tuning_curve.as_stored`)."""
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Repository, revision and full commit hash of what came from the Hub."""

    def __repr__(self) -> str:
        units = ", ".join(unit.name for unit in self.units)
        behind = f", behind {', '.join(defence.name for defence in self.defences)}" if self.defences else ""
        return f"RunPlan({self.pair.name}: {units}; {self.candidates:,} candidates each{behind}; {self.folder().path})"

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

    def places(self, folder: RunFolder) -> list[RunFolder]:
        """Return the folders that results are computed from: the run's, and that of its reference model."""
        return [folder] if self.reference_model is None else [folder, folder.reference()]

    @property
    def sampling(self) -> Sampling:
        """How images are drawn from the model."""
        return Sampling(sampler=self.protocol.sampler, micro_batch=self.batching.micro_batch)

    def attacked(self) -> ModelSpec:
        """Return the model as it is loaded to be attacked: compiled where the run is."""
        return self.model.model_copy(update={"compiled": self.batching.compiled})

    def rounds_otherwise(self) -> bool:
        """Return whether the denoiser runs in another way than in float32, operation by operation."""
        return self.batching.compiled or self.model.dtype != "float32"

    def defence_settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of every defence by name; their order around the model follows from the names."""
        around = {defence.name: defence.settings.model_dump(mode="json") for defence in self.defences}
        return {**{name: dict(values) for name, values in self.trained_with.items()}, **around}

    def optimised_spaces(self) -> dict[str, list[str]]:
        """Return by defence the descriptor spaces whose measures alone must not judge it.

        Other references in a space do not make it another one.
        """
        inside = {m.space: m.round_trip_of.space for m in self.measures if m.round_trip_of is not None}
        return {
            defence.name: sorted(
                defence.optimises | {space for space, inner in inside.items() if inner in defence.optimises}
            )
            for defence in self.defences
        }

    def identity(self) -> dict[str, Any]:
        """Return what makes this the same run; candidates, attacks and seeds may be added to it (docs/runs.md)."""
        reference = self.reference_model
        own = code_of(RunPlan)
        plugins: dict[str, type] = {defence.name: type(defence) for defence in self.defences}
        plugins |= {layer.id: type(layer) for measure in self.measures for layer in layers(measure)}
        others = {name: code for name, plugin in plugins.items() if (code := code_of(plugin)) != own}
        return {
            **({"reference_model": reference.content()} if reference else {}),
            "pair": self.pair.name,
            "pair_revision": self.pair.revision,
            "pair_identity": self.pair.identity(),
            "model": self.model.content(),
            "protocol": self.protocol.model_dump(mode="json"),
            "code": {"sidebench": own, **others},
            "measures": [measure.id for measure in self.measures],
            **({"measure_weights": self.measure_weights} if self.measure_weights else {}),
            "defences": self.defence_settings(),
            **({"data_commit": self.sources["data"]["commit"]} if "data" in self.sources else {}),
        }

    def folder(self) -> RunFolder:
        """Return the run's folder; its name depends on the plan alone."""
        if self.inside is not None:
            return self.inside.reference()
        return RunFolder(self.parent / f"{self.pair.name}-{short_hash(self.identity())}")


def plan_run(
    pair: Pair,
    *,
    attacks: Sequence[str] = (),
    defences: Sequence[str] = (),
    model: str | Model | None = None,
    tier: str | None = None,
    candidates: int | None = None,
    seeds: Sequence[int] = (0,),
    measures: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    out: str | Path = "runs",
    micro_batch: int | None = None,
    compiled: bool = False,
    fresh: bool = False,
    fresh_attacks: Sequence[str] = (),
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> RunPlan:
    """Check everything that can be checked without work and return the plan.

    Without `attacks`, those that the pair names run. `settings` go over the pair's, by attack or defence. `model` takes
    another model than the pair's: a pipeline folder, a repository (`OWNER/NAME@REVISION`), code of your own
    (`FILE.py:NAME`, a registered name, or the `Model` itself), or a control with known truth (`control:copycat`).
    `micro_batch` and `compiled` hold for a new folder alone; `fresh_attacks` start over, the other units of the folder
    stay. What was not fetched from the Hub yet is fetched here, and nothing after this.

    Raises:
        BadInput: anything that cannot be used, in one line.
    """
    number = candidate_count(tier, candidates)
    if any(seed < 0 for seed in seeds):
        raise BadSetting(f"a seed must not be negative, was {min(seeds)}")
    if any(seed >= 2**63 for seed in seeds):
        raise BadSetting(f"a seed must be below 2^63, was {max(seeds)}")
    kind = check_settings(Protocol, {"dtype": dtype}, "run").dtype
    batching.check_micro_batch(micro_batch)
    where = {"device": str(environment.pick_device(device)), "dtype": kind}
    chosen_attacks = make_attacks(pair, attacks, settings or {})
    around = in_order(make_defences(defences, settings or {}))
    check_names([*attacks, *defences], [*chosen_attacks, *around], settings or {})
    if model is None and pair.model.repo is not None:
        check_configs(pair, chosen_attacks, measures, allow_pickle)
    found = find_model(pair, model, Path(out), allow_pickle)
    spec, files = _checked(found.spec.model_copy(update=where))
    reference, sources, size = None, found.source, files.image_size
    if pair.reference_model is not None:
        other = find_source(pair.reference_model, pair.name, allow_pickle, form_of(pair.data))
        reference, its_files = _checked(other.spec.model_copy(update=where))
        sources = {**sources, **{f"reference_{key}": origin for key, origin in other.source.items()}}
        if its_files.image_size != size:
            raise BadInput(f"pair {pair.name}: the reference model makes images of another size than the model")
    check_family(chosen_attacks, around, spec.family)
    if compiled:
        batching.check_compiled(spec)
    _check_size(pair, size, files.outline if is_own(spec) else None)
    protocol = Protocol(**{**pair.protocol.values(), "dtype": dtype})
    if files.outline is not None:
        try_sampler(files.outline, protocol.sampler, f"pair {pair.name}")
        for attack in chosen_attacks:
            for sampler in attack.samplers():
                try_sampler(files.outline, sampler, f"{attack.name} on pair {pair.name}")
    check_conditioning(chosen_attacks, files.conditioning)
    check_captions(chosen_attacks, pair)
    if files.given is not None:
        number = _given_count(files.given, number if tier or candidates else None, seeds)
    trained_with = pair.recipe.defences() if pair.recipe and model is None else {}
    units = tuple(Unit(attack, seed) for attack in chosen_attacks for seed in dict.fromkeys(seeds))
    for attack in chosen_attacks:
        attack.check()
    for unit in units:
        if number < unit.attack.least_candidates():
            raise TooFew(
                f"{number} candidates are too few for {unit.attack.name}: it needs {unit.attack.least_candidates()}"
            )
    chosen = make_measures(pair, size, measures)
    check_autoencoder(chosen, spec.family)
    weights = {name: digest for measure in chosen for name, digest in measure.weights().items()}
    for measure in chosen:
        try_measure(measure, size, where["device"])
    if pair.data.source == "hub":
        sources = {**sources, "data": fetch_data(pair.data).origin()}
    training, held_out = counts(pair, progress)
    chosen = make_measures(pair, size, measures, min(training, held_out or training))
    if files.most_steps is not None and protocol.sampler.steps > files.most_steps:
        raise BadInput(
            f"pair {pair.name}: {protocol.sampler.steps} steps of the sampler, but the model was distilled from "
            f"{files.most_steps}: set protocol.sampler.steps to a few, 4 say"
        )
    samplers = [protocol.sampler, *(sampler for attack in chosen_attacks for sampler in attack.samplers())]
    height, width, channels = size
    shape = (channels, height, width)
    for name in dict.fromkeys(sampler.name for sampler in samplers):
        check_fit(around, VictimFacts(spec.family, files.conditioning, shape, name, training))
    for measure in chosen:
        measure.check(training, held_out, pair.allow_dense_neighbours)
        if measure.neighbours > TOP_K:
            raise BadInput(f"measure {measure.id}: a run keeps {TOP_K} neighbours, it needs {measure.neighbours}")
    plan = RunPlan(
        pair=pair,
        model=spec,
        image_size=size,
        protocol=protocol,
        batching=batching.chosen(pair, spec, files.sample_size, number, micro_batch, compiled=compiled),
        candidates=number,
        units=units,
        measures=tuple(chosen),
        defences=around,
        trained_with=trained_with,
        parent=Path(out),
        fresh=fresh,
        reference_model=reference,
        left_out=files.left_out,
        measure_weights=weights,
        sources=sources,
        fresh_attacks=_begun_anew(fresh_attacks, chosen_attacks),
    )
    cut = batching.in_force(plan.folder(), plan.batching, micro_batch, fresh=fresh)
    return replace(plan, batching=cut)


def _given_count(there: int, asked: int | None, seeds: Sequence[int]) -> int:
    """Return how many of the images that exist already are scored: all of them, or the first that were asked for.

    Raises:
        BadInput: there are fewer, or several seeds are named.
    """
    if len(set(seeds)) > 1:
        raise BadInput("images that exist already are the same under every seed: name one")
    if asked is not None and asked > there:
        raise TooFew(f"{asked:,} candidates were asked for, {there:,} images exist")
    if there > MOST_CANDIDATES:
        raise BadInput(f"{there:,} images exist, at most {MOST_CANDIDATES:,} are scored: give --candidates")
    return asked or there


def _begun_anew(named: Sequence[str], attacks: Sequence[Attack]) -> tuple[str, ...]:
    """Return the names of the attacks to start over, of those that run.

    Raises:
        UnknownName: one of them does not run.
    """
    known = {attack.name for attack in attacks}
    wanted = tuple(find("attack", name).name for name in named)
    for name in wanted:
        if name not in known:
            raise UnknownName("attack of this run", name, known)
    return wanted


def _check_size(pair: Pair, size: tuple[int, int, int], own: Model | None) -> None:
    """Raise `BadInput` where the pair's images are of another size than the model's (height, width, channels).

    Args:
        pair: Its images are compared.
        size: Of the model's images.
        own: The model, where it is somebody's own, whose image_shape may be wrong.
    """
    side, channels = pair.data.size, pair.data.channels
    if pair.data.source in ("hub", "folder") and side is not None and (side, side, channels) != size:
        height, width, made = size
        raise BadInput(
            f"pair {pair.name}: data.size brings the images to {side}x{side}x{channels}, "
            f"the model makes {height}x{width}x{made}; only square ones can be compared"
        )
    for place, stored in stored_sizes(pair.data).items():
        if stored != size:
            raise WrongImages(f"pair {pair.name}: {_of_another_size(place, stored, size, own)}")


def _of_another_size(place: str, stored: tuple[int, int, int], size: tuple[int, int, int], own: Model | None) -> str:
    """Say that an array holds images of another size than the model's, and what to do about it."""
    height, width, channels = size
    fix = "resize them, or save them as files, which are resized"
    if own is not None:
        fix += f"; {shape_asked(own)}"
    if stored == (channels, height, width):
        fix = "N x H x W x C is wanted: move the channel axis, numpy.moveaxis(images, 1, -1)"
    found, wanted = ("x".join(map(str, each)) for each in (stored, size))
    return f"{place}: images are {found}, the model makes {wanted} (height x width x channels); {fix}"


def _checked(spec: ModelSpec) -> tuple[ModelSpec, ModelFiles]:
    """Return the specification with the hashes of its files, and what the files say.

    Raises:
        BadInput: something is wrong with them, or they need a package that is not installed.
    """
    if spec.family == "text" and not is_own(spec):
        need_transformers(model_files.owner_of(model_files.locate(spec.location)))
    files = inspect_files(spec)
    return spec.model_copy(update={"sha256": files.sha256}), files


def candidate_count(tier: str | None, candidates: int | None) -> int:
    """Return the number of candidates of a tier, or the one that was given.

    Raises:
        BadSetting: both are given, or the number is not positive.
        UnknownName: there is no such tier.
    """
    if tier is not None and candidates is not None:
        raise BadSetting("give --tier or --candidates, not both")
    if candidates is not None:
        if candidates < 1:
            raise BadSetting(f"candidates must be at least 1, was {candidates}")
        if candidates > MOST_CANDIDATES:
            raise BadSetting(f"candidates must be at most {MOST_CANDIDATES:,}, was {candidates}")
        return candidates
    if (tier or DEFAULT_TIER) not in TIERS:
        raise UnknownName("tier", str(tier), TIERS)
    return TIERS[tier or DEFAULT_TIER]
