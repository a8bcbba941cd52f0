"""Where the gate's scores come from: made shard by shard, or read from a finished run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import environment
from ..contracts import Attack, AttackState, Measure, ModelSpec, Progress
from ..data.pair import Pair, pair_names
from ..data.references import References
from ..errors import BadInput, CorruptRun, UnknownName
from ..files import difference, read_info, read_json, read_state, refuse_links, short_hash
from ..measures.scorer import Scorer
from ..measures.shard_scores import SIDES, ShardScores
from ..progress import silent
from ..registry import code_of, make_measure
from ..results.leases import close_work, open_work
from ..results.run_folder import RunFolder, asked_candidates, believed, unit_name
from ..results.score_files import first_scores, read_scores
from ..results.shards import Shard, below, shard_of
from ..results.whole import drop_damaged
from ..runs import batching
from ..runs.engine import Alone, Crew, Engine, Place
from ..runs.generate import make_shard, named_failures, prepare
from ..runs.makers import Makers
from ..runs.plan import RunPlan, Unit
from ..runs.runner import open_folder
from ..runs.score import score_shard
from ..runs.timing import sampling_time
from ..runs.victim import output_path
from ..runs.write_results import write_references

if TYPE_CHECKING:
    from ..contracts import Model

GATE_MANIFEST = "gate-plan.json"
"""The manifest of a gate's folder; under another name, because such a folder has no number of candidates."""


class Spent(NamedTuple):
    """What the shards that were used have cost, whenever they were made."""

    seconds: float
    """By the clock."""
    gpu_seconds: float
    processor_seconds: float
    """The same on a busy machine."""


NOTHING = Spent(0.0, 0.0, 0.0)


class ScoreSource(ABC):
    """Shards of scored candidates by unit, an attack under one seed."""

    folder: RunFolder
    measure: Measure
    scorer: Scorer
    shard_size: int
    available: int
    """Candidates per unit that there can be."""
    spent = NOTHING
    progress: Progress

    @abstractmethod
    def scores(self, unit: str, shard: int) -> ShardScores:
        """Return one shard's scores, of the unit of this name."""

    def ahead(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Take note of shards, by unit and number, that are needed next, whatever is seen in the first of them."""

    @abstractmethod
    def images(self, unit: str, shard: int) -> torch.Tensor:
        """Return one shard's images, uint8 N x C x H x W."""

    def victim(self) -> "Model | None":
        """Return the model with its defences, where the source has one."""
        return None

    def how_to_have(self, unit: str, candidates: int) -> str:
        """Return what to do where there are fewer candidates than a policy may take; empty where nothing helps."""
        return ""

    def not_judged(self) -> list[str]:
        """Return what there is of the judged attacks and the policy does not ask for, and why it is left out."""
        return []


class GateFolder(RunFolder):
    """A gate's folder: images, states and scores as in a run folder, as many shards as were needed so far."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.manifest_file = path / GATE_MANIFEST

    def forget(self, unit: str) -> None:
        """Remove all that an attack has left here, and then its place in the manifest.

        A call that is killed between leaves an entry by which the next one does the rest.
        """
        super().forget(unit)
        manifest = read_json(self.manifest_file)
        kept = {name: own for name, own in manifest["units"].items() if name != unit}
        self.write_manifest({**manifest, "units": kept})


def read_gate(path: Path) -> GateFolder:
    """Open a gate's folder for reading.

    Raises:
        BadInput: a name in it leads out of it.
        CorruptRun: its manifest cannot be read.
    """
    folder = GateFolder(path)
    refuse_links(folder.path)
    folder.checked_manifest()
    return folder


class MadeOnDemand(ScoreSource):
    """Attacks a model, a shard at a time. What is in the folder already is used again, states and shards alike.

    The folder's name and manifest leave the budget out, so a larger budget or another limit goes on with it, and
    another model, measure or protocol does not. An attack with other settings, or of other code, starts over in it.
    """

    folder: GateFolder

    def __init__(self, plan: RunPlan, references: References, progress: Progress, engine: Engine | None = None) -> None:
        self.progress = progress
        self.identity = plan.identity()
        self.folder = GateFolder(plan.parent / f"gate-{plan.pair.name}-{short_hash(self.identity)}")
        cut = batching.in_force(self.folder, plan.batching, None, fresh=plan.fresh)
        # Whole shards, so that a larger budget goes on with them.
        self.plan = plan = replace(plan, batching=cut, candidates=-(-plan.candidates // cut.shard) * cut.shard)
        self.measure, self.shard_size, self.available = plan.measures[0], cut.shard, plan.candidates
        self._units = {unit.name: unit for unit in plan.units}
        self._states: dict[str, AttackState] = {}
        self._makers = Makers(plan)
        self._engine, self._lent = engine, ExitStack()
        self._crew: Crew = Alone(self._makers)
        self._failed: dict[tuple[str, int], Exception] = {}
        path = output_path(plan, references, self._makers.model)
        device = environment.pick_device(plan.model.device)
        self.scorer = Scorer(references, [self.measure], plan.protocol.top_k, device, path)
        self._references = references

    def open(self) -> None:
        """Write the manifest or check the one that is there, and have workers come; the folder must be locked.

        An attack whose settings or code have changed since starts over, the others go on with what there is.
        """
        if self.plan.fresh:
            self.folder.clear()
        stored = (self.folder.checked_manifest() or {"units": {}})["units"]
        for unit in self.plan.units:
            if unit.name in stored and difference(stored[unit.name], unit.description()):
                self.folder.forget(unit.name)
        open_folder(self.plan, self.folder, self.identity)
        manifest = read_json(self.folder.manifest_file)
        close_work(self.folder.path)  # of a gate that was killed
        if self._engine is not None:
            open_work(self.folder.path, {"gate": self.identity}, [])
            self._lent.callback(close_work, self.folder.path)
            self._crew = self._lent.enter_context(self._engine.crew(self.plan, Place(self.folder.path)))
        # Another attack's pieces too: they are not read here, and rebuilt when that attack is judged.
        drop_damaged(self.folder, manifest["units"])
        write_references(self.folder, self._references)
        self.folder.write_manifest({**manifest, "data": {"sha256": self._references.fingerprint}})

    def victim(self) -> "Model":
        """Return the model with its defences, loaded when it is first needed."""
        return self._makers.model()

    def sampling_time(self, candidates: int) -> str:
        """Say how long plain sampling of so many candidates takes, by the model that makes them."""
        said = sampling_time(self.plan.pair, self.victim, candidates)
        if any(self._makers.apart(unit) for unit in self.plan.units):
            self._makers.close()  # the attacks' own process loads it too, and it is held once at a time
        return said

    def __enter__(self) -> "MadeOnDemand":
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._makers.close()
        self._lent.__exit__(kind, error, trace)

    def ahead(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Make as many of these shards as there are workers, if the first of them is missing; failures are kept.

        Nothing is made that a gate without workers would not make, but where its seconds run out meanwhile.
        """
        if self._crew.workers > 1 and wanted[0] not in self._failed and not self._is_made(*wanted[0]):
            missing = [each for each in wanted if not self._is_made(*each) and each not in self._failed]
            self._make(missing[: self._crew.workers])

    def _is_made(self, unit: str, shard: int) -> bool:
        there = self.folder.images_file(unit, self._shard(shard)).exists()
        return there and self.folder.state_file(unit).exists()

    def _make(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Make shards side by side; why one was not made is kept for whoever asks for it."""
        new = [unit for unit in dict.fromkeys(unit for unit, _ in wanted) if unit not in self._states]
        preparing = {unit: self._crew.submit(partial(self._prepared, self._units[unit])) for unit in new}
        for unit, prepared in preparing.items():
            try:
                self._states[unit] = prepared.result()
            except Exception as error:  # of whatever kind; it is raised where its shard is asked for
                self._failed |= {each: error for each in wanted if each[0] == unit}
        ready = [each for each in wanted if each not in self._failed]
        for each, made in {each: self._crew.submit(partial(self._made, *each)) for each in ready}.items():
            try:
                made.result()
            except Exception as error:
                self._failed[each] = error

    def _prepared(self, unit: Unit, makers: Makers) -> AttackState:
        with named_failures(self.plan, unit):
            return prepare(self.plan, self.folder, unit, makers.of(unit), self.progress)

    def _made(self, name: str, shard: int, makers: Makers) -> None:
        unit = self._units[name]
        with named_failures(self.plan, unit):
            make_shard(self.plan, self.folder, unit, makers.of(unit), self._states[name], self._shard(shard))

    def scores(self, unit: str, shard: int) -> ShardScores:
        """Make a shard, or what is missing of it, and return its scores.

        Raises:
            AttackFailed: the attack raised, or returned what its contract does not allow.
        """
        numbers = self._shard(shard)
        if not self._is_made(unit, shard):
            if (unit, shard) not in self._failed:
                self._make([(unit, shard)])
            if error := self._failed.pop((unit, shard), None):
                raise error
        score_shard(self.plan, self.folder, unit, numbers, self.scorer)
        files = [self.folder.images_file(unit, numbers)]
        if shard == 0 and not self.folder.kept_file(unit).exists():
            files.append(self.folder.state_file(unit))
        costs = [read_info(file)["cost"] for file in files]
        seconds = self.spent.seconds + sum(cost["seconds"] for cost in costs)
        processor = self.spent.processor_seconds + sum(cost["processor_seconds"] for cost in costs)
        self.spent = Spent(seconds, 0.0 if self.plan.model.device == "cpu" else seconds, processor)
        return read_scores(self.folder, unit, self.measure.space, numbers)

    def images(self, unit: str, shard: int) -> torch.Tensor:
        """Return one shard's images; it must have been made."""
        return read_state(self.folder.images_file(unit, self._shard(shard))).tensors["images"]

    def _shard(self, number: int) -> Shard:
        return shard_of(range(number * self.shard_size, (number + 1) * self.shard_size))


class FinishedRun(ScoreSource):
    """Reads a finished run. Nothing is made, so nothing is spent."""

    def __init__(
        self,
        folder: RunFolder,
        pair: Pair,
        references: References,
        units: Sequence[Unit],
        measure: str,
    ) -> None:
        with believed(folder):
            self._read(folder, pair, references, units, measure)

    def _read(self, folder: RunFolder, pair: Pair, references: References, units: Sequence[Unit], measure: str) -> None:
        manifest = read_json(folder.manifest_file)
        identity = manifest["identity"]
        self.folder, self.progress = folder, silent
        self._sides = dict(zip(SIDES, (len(references.training.images), len(references.held_out.images)), strict=True))
        self.measure = _measure_of(identity, measure)
        self.available = asked_candidates(manifest)
        names = [unit_of(folder, manifest, unit.attack, unit.seed, self.measure) for unit in units]
        space = self.measure.space
        self._attacks = {name: unit.attack for name, unit in zip(names, units, strict=True)}
        self._judged = _seeds_of({name: manifest["units"][name] for name in names})
        scored = folder.scored_units(manifest, space)
        self._scored = _seeds_of({name: manifest["units"][name] for name in scored})
        self._planned = _seeds_of(manifest["units"])
        self._shards = {name: below(folder.score_shards(name, space), self.available) for name in names}
        self.shard_size = max((len(s.numbers) for own in self._shards.values() for s in own), default=1)
        if identity["pair_identity"] != pair.identity():
            raise BadInput(
                f"{folder.path.name} is a run of pair {identity['pair']} as it was then, not of {pair.name} as it is "
                f"now; give the run's own pair file with --pair"
            )
        self.scorer = Scorer(references, [self.measure], int(identity["protocol"]["top_k"]), torch.device("cpu"))
        self._pair, self._attacked = pair, identity["model"]

    def victim(self) -> "Model | None":
        """Return the pair's model, if it lies on this machine and is the one that the run attacked."""
        from ..models import load_model

        own = self._pair.model
        if own.repo is not None:
            return None
        # Nothing else of what the folder says: not where files lie, nor that a pickle may be loaded.
        content = {key: self._attacked[key] for key in ("family", "sha256")}
        spec = ModelSpec(**content, location=own.location, variant=own.variant)
        try:
            return load_model(spec)
        except BadInput:  # another model's files, or none
            return None

    def how_to_have(self, unit: str, candidates: int) -> str:
        """Return the command that goes on with the run."""
        name, attack = self._pair.name, self._attacks[unit].name
        file = name if name in pair_names() else f"{name}.yaml"
        # Results are of the seeds that have all their candidates: a seed that is not named would drop out of them.
        seeds = self._planned[attack]
        named = "" if seeds == [0] else "".join(f" --seed {seed}" for seed in seeds)
        out = self.folder.path.parent
        command = f"sidebench run {file} --attack {attack}{named} --candidates {candidates} --out {out}"
        return f"the policy takes up to {candidates:,}; the run's own command goes on with it: {command}"

    def not_judged(self) -> list[str]:
        """Return the seeds of judged attacks that the run has beyond those of the policy."""
        attacks = {attack.name: attack for attack in self._attacks.values()}
        more = {name: sorted({*self._scored[name]} - {*self._judged[name]}) for name in attacks}
        return [_why_not(attacks[name], self._judged[name], seeds) for name, seeds in more.items() if seeds]

    def scores(self, unit: str, shard: int) -> ShardScores:
        """Return one shard's stored scores."""
        found = self._shards[unit][shard]
        scores = read_scores(self.folder, unit, self.measure.space, found)
        for side, images in self._sides.items():
            ids = scores.neighbours[side].ids
            if ids.size and ids.max() >= images:
                raise CorruptRun(f"{self.folder.path.name}: scores of {unit} name a {side} image beyond {images:,}")
        return first_scores(scores, self.available - found.numbers.start)

    def images(self, unit: str, shard: int) -> torch.Tensor:
        """Return one shard's stored images."""
        found = self._shards[unit][shard]
        with believed(self.folder):
            images = read_state(self.folder.images_file(unit, found)).tensors["images"]
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(found.numbers):
            raise CorruptRun(f"{self.folder.path.name}: images/{unit}/{found.name} does not hold these candidates")
        return images[: self.available - found.numbers.start]


def _seeds_of(units: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the seeds, sorted, by attack of a manifest's units."""
    found: dict[str, list[int]] = {}
    for unit in units.values():
        found.setdefault(unit["attack"], []).append(int(unit["seed"]))
    return {attack: sorted(seeds) for attack, seeds in found.items()}


def _why_not(attack: Attack, judged: Sequence[int], more: Sequence[int]) -> str:
    """Say which seeds of an attack are not judged, and what would have to be otherwise."""
    said = f"{attack.name}: the run has {_seeds(more)} too, and the policy judges {_seeds(judged)} alone"
    if not attack.prepares():
        return f"{said}, since it prepares nothing: what counts are more candidates of that seed"
    there, first = {*judged, *more}, judged[0]
    in_a_row = next(count for count in range(1, len(there) + 2) if first + count not in there)
    if in_a_row == len(judged):
        return f"{said}: it takes seeds in a row, from {first} on"
    return f"{said}; with preparations: {in_a_row} in it, {_seeds(range(first, first + in_a_row))} are judged"


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds as a reader says them.

    >>> _seeds([4]), _seeds([0, 1, 2])
    ('seed 4', 'seeds 0, 1 and 2')
    """
    *first, last = seeds
    return f"seeds {', '.join(map(str, first))} and {last}" if first else f"seed {last}"


def unit_of(folder: RunFolder, manifest: Mapping[str, Any], attack: Attack, seed: int, measure: Measure) -> str:
    """Return the unit of a run that is this attack under this seed, with these settings, all scored.

    Raises:
        BadInput: the run has no such unit, or it has other settings.
    """
    name = unit_name(attack.name, seed)
    finished = folder.scored_units(manifest, measure.space)
    if name not in finished:
        raise BadInput(
            f"the policy wants {attack.name} under seed {seed}, and the run {folder.path.name} has it not "
            f"finished; it has {', '.join(sorted(finished)) or 'none'}: run the attack too, or gate the pair"
        )
    changed = settings_difference(attack, manifest["units"][name]["settings"])
    if changed := changed or code_difference(attack, manifest["units"][name]):
        raise BadInput(f"{folder.path.name}: {changed}")
    return name


def code_difference(attack: Attack, unit: Mapping[str, Any]) -> str | None:
    """Describe how the code of a plug-in differs from that of a stored unit, or None.

    An attack that ships with sidebench is the one of that run's version; nothing of it is run again.
    """
    stored, own = unit.get("code", {}), code_of(type(attack))
    if "sha256" not in stored and "sha256" not in own:
        return None
    return difference(stored, own, f"{attack.name}.code")


def settings_difference(attack: Attack, stored: Mapping[str, Any]) -> str | None:
    """Describe the first setting that was stored otherwise, or None."""
    return difference(dict(stored), attack.settings.model_dump(mode="json"), attack.name)


def _measure_of(identity: Mapping[str, Any], measure: str) -> Measure:
    if measure not in identity["measures"]:
        raise UnknownName("measure of this run", measure, identity["measures"])
    made = make_measure(measure)
    if made.round_trip_of is not None:
        raise BadInput(
            f"measure {measure}: its references go through the model, which a finished run does not hold; give "
            f"the gate the pair, or a policy with {made.round_trip_of.id}"
        )
    return made
