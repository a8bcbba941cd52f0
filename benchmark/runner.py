"""Run a plan: prepare and generate every attack, then load the references, score, and store.

Work goes shard by shard; each finished piece is one atomic file, so a run that was killed anywhere and
started again makes only what is missing and ends with the same metrics.json. References are loaded after
the last image was generated.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import environment, hub
from .contracts import Attack, AttackState, Budget, Checkpoints, Defence, Generated, Measure, ModelSpec, Progress
from .errors import AttackFailed, BadInput, BadSetting, RunConflict, SidebenchError, TooFew
from .models import inspect_files
from .pairs import Pair
from .progress import silent
from .protocol import (
    DEFAULT_TIER,
    PROBES,
    TIERS,
    TOP_K,
    Protocol,
    default_measures,
    make_protocol,
)
from .registry import check_settings, find, make_attack, make_measure
from .store import MANIFEST_SCHEMA, RunFolder, difference, read_state, short_hash, write_json, write_state
from .streams import Candidates

if TYPE_CHECKING:
    import torch

    from .contracts import Model
    from .references import References
    from .results import Metrics

_SLACK = 1e-3
"""How far outside [0, 1] an attack's images may lie from rounding."""


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
    parent: Path = Path("runs")
    fresh: bool = False

    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.candidates // self.protocol.shard)

    def identity(self) -> dict[str, Any]:
        """Return what makes this the same run; attacks and seeds may be added to it."""
        return {
            "pair": self.pair.name,
            "pair_revision": self.pair.revision,
            "pair_identity": self.pair.identity(),
            "model": {"family": self.model.family, "sha256": self.model.sha256},
            "protocol": self.protocol.model_dump(mode="json"),
            "candidates": self.candidates,
            "measures": [measure.id for measure in self.measures],
            "defences": {d.name: d.settings.model_dump(mode="json") for d in self.defences},
        }

    def folder(self) -> RunFolder:
        """Return the run's folder; its name depends on the plan alone."""
        return RunFolder(self.parent / f"{self.pair.name}-{self.candidates}-{short_hash(self.identity())}")


@dataclass(frozen=True)
class RunResult:
    """What `execute` hands back."""

    folder: RunFolder
    metrics: "Metrics | None"
    failures: dict[str, SidebenchError] = field(default_factory=dict)
    """Units that failed, with the reason; the others' results are kept."""


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

    Without `attacks`, those that the pair names run. `settings` go over the pair's, by attack. `model` takes
    another model than the pair's: a pipeline folder, or a control with known truth (`control:copycat`).

    Raises:
        BadInput: anything that cannot be used, in one line.
    """
    number = _candidate_count(tier, candidates)
    if any(seed < 0 for seed in seeds):
        raise BadSetting(f"a seed must not be negative, was {min(seeds)}")
    kind = check_settings(Protocol, {"micro_batch": 1, "dtype": dtype}, "run").dtype
    spec = model_spec(pair, model, Path(out)).model_copy(update={"device": str(hub.pick_device(device)), "dtype": kind})
    files = inspect_files(spec)
    spec = spec.model_copy(update={"sha256": files.sha256})
    units = tuple(
        Unit(attack, seed) for attack in _attacks(pair, attacks, settings or {}) for seed in dict.fromkeys(seeds)
    )
    for unit in units:
        if number < unit.attack.least_candidates():
            raise TooFew(
                f"{number} candidates are too few for {unit.attack.name}: it needs {unit.attack.least_candidates()}"
            )
    pixels = files.image_size[0] * files.image_size[1]
    chosen = [make_measure(name) for name in measures or pair.measures or default_measures(pixels)]
    for measure in chosen:
        measure.check(pair.data.split.training, pair.data.split.held_out, pair.allow_dense_neighbours)
        if measure.neighbours > TOP_K:
            raise BadInput(f"measure {measure.id}: a run keeps {TOP_K} neighbours, it needs {measure.neighbours}")
    overrides = {key: value for key, value in pair.protocol.model_dump().items() if value is not None}
    return RunPlan(
        pair=pair,
        model=spec,
        image_size=files.image_size,
        protocol=make_protocol(pixels, {**overrides, "dtype": dtype}),
        candidates=number,
        units=units,
        measures=tuple(chosen),
        defences=tuple(find("defence", name)() for name in defences),
        parent=Path(out),
        fresh=fresh,
    )


def model_spec(pair: Pair, model: str | None, out: Path) -> ModelSpec:
    """Return where the model is: the pair's, a folder that the user names, or a control made of the references."""
    if model is None:
        return ModelSpec(family=pair.model.family, location=pair.model.location, sha256=pair.model.sha256)
    if model.startswith("control:"):
        from .models.controls import make_control

        return make_control(model, pair, out / "controls")
    return ModelSpec(family=pair.model.family, location=model)


def execute(plan: RunPlan, progress: Progress = silent) -> RunResult:
    """Carry out a plan, or what is missing of it.

    Raises:
        RunConflict: the folder holds a run with other settings, or another process writes to it.
        CorruptRun: a stored file cannot be read.
    """
    folder = plan.folder()
    with folder.locked():
        if plan.fresh:
            folder.clear()
        _check_space(plan, folder)
        _open(plan, folder)
        failures = _generate_all(plan, folder, progress)
        metrics = _score_all(plan, folder, failures, progress)
        return RunResult(folder, metrics, failures)


# ---- Opening ----------------------------------------------------------------------------------------


def _open(plan: RunPlan, folder: RunFolder) -> None:
    """Write the manifest, or check that the one there is of the same run; new units are added."""
    units = {
        unit.name: {"attack": unit.attack.name, "seed": unit.seed, "settings": unit.settings()} for unit in plan.units
    }
    stored = folder.manifest()
    if stored is None:
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "run_id": folder.path.name,
            "identity": plan.identity(),
            "control": plan.pair.control,
            "device": plan.model.device.partition(":")[0],
            "units": units,
            "origins": {name: a.origin.strip() for name, a in plan.pair.attacks.items()},
            "environment": environment.describe(),
        }
        folder.write_manifest(manifest)
        return
    changed = difference(stored.get("identity"), plan.identity())
    for name, unit in units.items():
        if name in stored.get("units", {}):
            changed = changed or difference(stored["units"][name], unit, name)
    if changed:
        raise RunConflict(
            f"{folder.path} was made by other settings: {changed}; start over with --fresh, or choose another --out"
        )
    if not units.keys() <= stored["units"].keys():
        folder.write_manifest({**stored, "units": {**stored["units"], **units}})


def _check_space(plan: RunPlan, folder: RunFolder) -> None:
    """Refuse a run whose images and scores would not fit on the disk."""
    import shutil

    height, width, channels = plan.image_size
    a_candidate = height * width * channels + 40 * plan.protocol.top_k
    needed = a_candidate * plan.candidates * len(plan.units)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise BadInput(f"{folder.path} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; see --out")


def _candidate_count(tier: str | None, candidates: int | None) -> int:
    if tier is not None and candidates is not None:
        raise BadSetting("give --tier or --candidates, not both")
    if candidates is not None:
        if candidates < 1:
            raise BadSetting(f"candidates must be at least 1, was {candidates}")
        return candidates
    if (tier or DEFAULT_TIER) not in TIERS:
        from .errors import UnknownName

        raise UnknownName("tier", str(tier), TIERS)
    return TIERS[tier or DEFAULT_TIER]


def _attacks(pair: Pair, chosen: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Attack]:
    names = list(dict.fromkeys(chosen or pair.attacks))
    if not names:
        raise BadInput(f"pair {pair.name} names no attacks: choose with --attack")
    attacks = []
    for name in names:
        own = pair.attacks[name].settings if name in pair.attacks else {}
        given = {**settings.get(find("attack", name).name, {}), **settings.get(name, {})}
        attacks.append(make_attack(name, {**own, **given}))
    unused = set(settings) - set(names) - {attack.name for attack in attacks}
    if unused:
        raise BadSetting(f"settings for {sorted(unused)[0]!r}, which is not run: attacks are {', '.join(names)}")
    if len({attack.name for attack in attacks}) < len(attacks):
        raise BadInput("two attacks of the same name cannot be in one run")
    return attacks


# ---- Preparing and generating -----------------------------------------------------------------------


def _generate_all(plan: RunPlan, folder: RunFolder, progress: Progress) -> dict[str, SidebenchError]:
    """Prepare and generate every unit; a failing attack is recorded and the others go on."""
    failures: dict[str, SidebenchError] = {}
    todo = [u for u in plan.units if not _generated(plan, folder, u)]
    if not todo:
        return failures
    from .models import load_model

    model: Model = load_model(plan.model)
    for defence in plan.defences:
        model = defence.wrap(model)
    for unit in todo:
        if model.conditioning not in unit.attack.conditionings:
            kinds = ", ".join(sorted(unit.attack.conditionings))
            raise BadInput(f"{unit.attack.name} works on models with conditioning {kinds}, not {model.conditioning}")
    for unit in todo:
        try:
            with _named_failures(unit):
                state = _prepare(plan, folder, unit, model, progress)
                _generate(plan, folder, unit, model, state, progress)
                _probe(plan, folder, unit, model, state)
        except SidebenchError as error:
            failures[unit.name] = error
    return failures


@contextmanager
def _named_failures(unit: Unit) -> Any:
    """Turn whatever a plug-in raises into an error with the attack's name."""
    try:
        yield
    except SidebenchError:
        raise
    except Exception as error:
        hint = ""
        if "out of memory" in str(error).lower():
            hint = "; give the pair a smaller protocol.micro_batch (a new run: the number belongs to the settings)"
        raise AttackFailed(f"{unit.name} failed: {type(error).__name__}: {error}{hint}") from error


def _generated(plan: RunPlan, folder: RunFolder, unit: Unit) -> bool:
    return all(file.exists() for file in _unit_files(plan, folder, unit.name))


def _unit_files(plan: RunPlan, folder: RunFolder, unit: str) -> list[Path]:
    """Return the files that a unit has once all its images are made."""
    images = [folder.images_file(unit, shard) for shard in range(plan.shards())]
    return [folder.state_file(unit), *images, folder.probe_file(unit)]


def _prepare(plan: RunPlan, folder: RunFolder, unit: Unit, model: "Model", progress: Progress) -> AttackState:
    """Return the attack's state: the stored one, or a new one with its cost."""
    file = folder.state_file(unit.name)
    if file.exists():
        stored = read_state(file)
        return AttackState(stored.tensors, stored.info["state"])

    def report(phase: str, done: int, total: int) -> None:
        progress(f"{unit.name}: {phase}", done, total)

    began = time.monotonic()
    checkpoints = folder.checkpoints(unit.name)
    budget = Budget(unit.seed, plan.candidates, checkpoints, report)
    state, spent = prepare_attack(unit.attack, model, plan.protocol, budget, folder.shared_samples())
    seconds = time.monotonic() - began
    cost = {**spent, "seconds": seconds, "denoiser_flops": model.flops_per_sample()}
    write_state(file, AttackState(state.tensors, {"state": dict(state.info), "cost": cost}))
    checkpoints.clear()
    return state


def _generate(
    plan: RunPlan,
    folder: RunFolder,
    unit: Unit,
    model: "Model",
    state: AttackState,
    progress: Progress,
) -> None:
    import numpy as np

    for shard in range(plan.shards()):
        file = folder.images_file(unit.name, shard)
        start = shard * plan.protocol.shard
        numbers = range(start, min(start + plan.protocol.shard, plan.candidates))
        if not file.exists():
            began = time.monotonic()
            images, nan, columns, cost = make_candidates(
                unit.attack, model, state, Candidates(unit.seed, numbers), plan.protocol
            )
            tensors = {"images": images, "nan": nan, **{f"column_{k}": v for k, v in columns.items()}}
            write_state(file, AttackState(tensors, {"cost": {**cost, "seconds": time.monotonic() - began}}))
        progress(f"{unit.name}: candidates", int(np.max(numbers)) + 1, plan.candidates)


def prepare_attack(
    attack: Attack, model: "Model", protocol: Protocol, budget: Budget, kept: Checkpoints | None = None
) -> tuple[AttackState, dict[str, Any]]:
    """Call an attack's `prepare` and return its state, its logical cost by phase and the samples it asked for.

    `kept` is where plain samples are shared between attacks and with a resumed run.

    Raises:
        AttackFailed: the attack returned something that its contract does not allow.
    """
    from .sampling import AuditedModel, view_for

    audited = AuditedModel(model, protocol.sampler, protocol.micro_batch, kept=kept, progress=budget.progress)
    with audited.ledger.during("prepare"):
        state = attack.prepare(view_for(attack.access, audited), budget)
    if not isinstance(state, AttackState):
        raise AttackFailed(f"{attack.name}: prepare returned a {type(state).__name__}, not an AttackState")
    return state, {**audited.ledger.as_dict(), "samples": audited.kept_keys}


def make_candidates(
    attack: Attack, model: "Model", state: AttackState, candidates: Candidates, protocol: Protocol
) -> tuple["torch.Tensor", "torch.Tensor", dict[str, "torch.Tensor"], dict[str, Any]]:
    """Generate candidates and check what the attack returned.

    Returns uint8 images, a flag per image for values that are not finite, the attack's columns, and cost.

    Raises:
        AttackFailed: the attack returned something that its contract does not allow.
    """
    import torch

    from .sampling import AuditedModel, quantise, view_for

    audited = AuditedModel(model, protocol.sampler, protocol.micro_batch)
    with audited.ledger.during("generate"):
        made = attack.generate(view_for(attack.access, audited), state, candidates)
    _check_generated(attack.name, made, len(candidates), model.image_shape)
    columns = {name: torch.as_tensor(values) for name, values in made.columns.items()}
    nan = ~torch.isfinite(made.images.flatten(1)).all(1)
    images = made.images.cpu().clone()
    images[nan.cpu()] = 0
    return quantise(images), nan.cpu(), columns, audited.ledger.as_dict()


def _check_generated(name: str, made: Any, count: int, shape: tuple[int, int, int]) -> None:
    import torch

    if not isinstance(made, Generated) or not isinstance(made.images, torch.Tensor):
        raise AttackFailed(f"{name}: generate must return Generated(images, columns)")
    if tuple(made.images.shape) != (count, *shape) or not made.images.is_floating_point():
        raise AttackFailed(
            f"{name}: generate returned {made.images.dtype} of shape {tuple(made.images.shape)}, "
            f"wanted float of shape {(count, *shape)}"
        )
    finite = made.images[torch.isfinite(made.images)]
    if finite.numel() and (finite.min() < -_SLACK or finite.max() > 1 + _SLACK):
        raise AttackFailed(f"{name}: images lie in [{finite.min():.3g}, {finite.max():.3g}], wanted [0, 1]")
    for column, values in made.columns.items():
        if len(values) != count:
            raise AttackFailed(f"{name}: column {column!r} has {len(values)} values for {count} images")


def _probe(plan: RunPlan, folder: RunFolder, unit: Unit, model: "Model", state: AttackState) -> None:
    """Make a few candidates again with another batch size and store how far they are off."""
    file = folder.probe_file(unit.name)
    if file.exists():
        return
    count = min(PROBES, plan.candidates, plan.protocol.shard)
    other = plan.protocol.model_copy(update={"micro_batch": max(1, plan.protocol.micro_batch // 2 + 1)})
    again = make_candidates(unit.attack, model, state, Candidates(unit.seed, range(count)), other)[0]
    first = read_state(folder.images_file(unit.name, 0)).tensors["images"][:count]
    off = (again.int() - first.int()).abs()
    write_json(
        file,
        {
            "candidates": count,
            "micro_batch": other.micro_batch,
            "largest": int(off.max()),
            "share_off": float((off > 1).float().mean()),
        },
    )


# ---- Scoring ----------------------------------------------------------------------------------------


def _score_all(
    plan: RunPlan,
    folder: RunFolder,
    failures: dict[str, SidebenchError],
    progress: Progress,
) -> "Metrics | None":
    from . import artefacts
    from .references import load_references
    from .scoring import Scorer

    units = _finished_units(plan, folder, failures)
    if not units:
        return None
    references = load_references(plan.pair)
    _check_references(plan, references)
    artefacts.write_references(folder, references)
    scorer = Scorer(references, list(plan.measures), plan.protocol.top_k, hub.pick_device(plan.model.device))
    for unit in units:
        _score(plan, folder, unit, scorer, progress)
    return artefacts.write_results(plan, folder, units, references, scorer)


def _finished_units(
    plan: RunPlan, folder: RunFolder, failures: Mapping[str, SidebenchError]
) -> list[tuple[str, str, int]]:
    """Return (unit name, attack, seed) of every unit with all its images, earlier calls' units too."""
    manifest = folder.manifest()
    assert manifest is not None
    rank = {attack: position for position, attack in enumerate(plan.pair.attacks)}
    ordered = sorted(
        manifest["units"].items(),
        key=lambda item: (rank.get(item[1]["attack"], len(rank)), item[1]["attack"], item[1]["seed"]),
    )
    found = []
    for name, unit in ordered:
        if name not in failures and all(file.exists() for file in _unit_files(plan, folder, name)):
            found.append((name, unit["attack"], unit["seed"]))
    return found


def _check_references(plan: RunPlan, references: "References") -> None:
    wanted = plan.image_size
    channels, height, width = references.training.images.shape[1:]
    if (height, width, channels) != wanted:
        raise BadInput(
            f"{plan.pair.name}: the images are {height}x{width}x{channels}, "
            f"the model makes {'x'.join(str(n) for n in wanted)}"
        )


def _score(plan: RunPlan, folder: RunFolder, unit: tuple[str, str, int], scorer: Any, progress: Progress) -> None:
    """Score a unit's candidates, and the samples that its `prepare` asked for: they cost as much and may hit too."""
    name = unit[0]
    for shard in range(plan.shards()):
        start = shard * plan.protocol.shard
        stop = min(start + plan.protocol.shard, plan.candidates)
        _score_file(plan, folder, name, shard, folder.images_file(name, shard), start, scorer)
        progress(f"{name}: scores", stop, plan.candidates)
    for key in read_state(folder.state_file(name)).info["cost"]["samples"]:
        _score_file(plan, folder, key, 0, folder.shared_samples().file(key), 0, scorer)


def _score_file(
    plan: RunPlan, folder: RunFolder, name: str, shard: int, images_file: Path, start: int, scorer: Any
) -> None:
    import numpy as np

    from .scoring import SCORE_PARTS, write_scores

    for space in dict.fromkeys(measure.space for measure in plan.measures):
        if all(folder.scores_file(name, space, shard, part).exists() for part in SCORE_PARTS):
            continue
        stored = read_state(images_file).tensors
        numbers = np.arange(start, start + len(stored["images"]), dtype=np.int64)
        nan = stored["nan"].numpy() if "nan" in stored else np.zeros(len(numbers), dtype=bool)
        scores = scorer.score(stored["images"], numbers, nan, space)
        columns = {
            key.removeprefix("column_"): value.numpy() for key, value in stored.items() if key.startswith("column_")
        }
        write_scores(folder, name, space, shard, scores, list(plan.measures), columns)
