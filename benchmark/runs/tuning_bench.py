"""The victim of a tuning: attacks are tried on it, here or by a crew of workers, and scored against its own images."""

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import environment
from ..candidates import Candidates, stream_seed
from ..contracts import Attack, Budget, Defence, ModelSpec, Progress
from ..data.pair import Pair
from ..data.references import shared_groups
from ..errors import BadInput, TooFew
from ..protocol import TOP_K, Protocol, default_measures
from ..registry import make_measure
from ..results.checkpoints import FolderCheckpoints, MemoryCheckpoints
from ..results.leases import close_work, open_work
from ..results.rates import measure_result
from ..results.schema import BandResult
from ..results.tuning_curve import Used
from ..results.unit_scores import UnitScores
from ..sampling.defended import defend
from .batching import chosen
from .engine import Alone, Crew, Engine, Place
from .makers import Makers
from .plan import RunPlan, Unit

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ..contracts import AttackState, Model
    from ..measures.shard_scores import ShardScores
    from ..models import ModelFiles

SAMPLES = "samples"
"""Below a tuning's folder: plain samples that the preparations share."""


class TuningBench:
    """The victim with its references, ready to try attacks on."""

    def __init__(
        self,
        pair: Pair,
        out: Path,
        device: str,
        candidates: int,
        seed: int,
        defences: Sequence[Defence],
        attacks: Sequence[Attack],
        progress: Progress,
    ) -> None:
        from ..data.references import load_references
        from ..measures.output_path import OutputPath
        from ..measures.scorer import Scorer
        from ..models import WITH_AUTOENCODER

        self.progress, self.out, self._scoring = progress, out, threading.Lock()
        block = pair.data.tuning_block is not None
        # No run has such a seed by chance, so candidates of the pair's own model are never those of a run.
        own_seed = stream_seed(seed, "tuning", 0, pair.name) % 2**31 if block else seed
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
        spec, files = self._spec(pair, out, device)
        height, width, _ = files.image_size
        training, held_out = self.references.training, self.references.held_out
        smallest = None if pair.allow_dense_neighbours else min(len(training), len(held_out) or len(training))
        default = default_measures(height * width, held_out=len(held_out) > 0, smallest=smallest)
        self.measure = make_measure((pair.measures or default)[0])
        if not self.measure.bands:
            raise BadInput(f"{pair.name}: the first measure has no fixed bands to tune by")
        self.measure.check(len(training), len(held_out), pair.allow_dense_neighbours)
        self.plan = RunPlan(
            pair=pair,
            model=spec,
            image_size=files.image_size,
            protocol=Protocol(**pair.protocol.values()),
            batching=chosen(pair, spec, files.sample_size, candidates),
            candidates=candidates,
            units=tuple(Unit(attack, own_seed) for attack in attacks),
            measures=(self.measure,),
            defences=tuple(defences),
        )
        autoencoder = spec.family in WITH_AUTOENCODER
        path = OutputPath(lambda: self.model, spec.content(), autoencoder=autoencoder)
        where = environment.pick_device(spec.device)
        self.scorer: Scorer = Scorer(self.references, [self.measure], TOP_K, where, path)
        rows = sorted(int(row) for part in (training, held_out) for row in part.rows)
        self.used = Used(model=spec.sha256, seed=own_seed, data=self.references.fingerprint, rows=rows)

    @cached_property
    def bare(self) -> "Model":
        """The victim without its defences, loaded when it is first needed."""
        from ..models import load_model

        loaded: Model = load_model(self.plan.model)
        return loaded

    @cached_property
    def model(self) -> "Model":
        """The victim behind its defences."""
        sampler = self.plan.protocol.sampler.name
        return defend(self.bare, self.plan.defences, sampler, self.references.training.floats)

    def _spec(self, pair: Pair, out: Path, device: str) -> tuple[ModelSpec, "ModelFiles"]:
        """Return the pair's own model, or that of the shadow victim, trained if it is not there yet, and its files."""
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
        files = inspect_files(spec)
        where = str(environment.pick_device(device))
        return spec.model_copy(update={"sha256": files.sha256, "device": where}), files

    def tried(self, points: Sequence[Mapping[str, Any]], engine: Engine | None) -> Iterator[BandResult]:
        """Yield the closest band's result of each attack, in their order; `points` are what is changed in each."""
        labels = [", ".join(f"{key} = {value}" for key, value in values.items()) for values in points]
        if engine is None or not points:
            yield from self._tried_by(Alone(_Here(self.plan, lambda _: self.model)), labels)
            return
        open_work(self.out, {"tuning": self.plan.identity()}, [])
        try:
            with engine.crew(self.plan, Place(self.out, SAMPLES, keeps_progress=False), tuning=True) as crew:
                yield from self._tried_by(crew, labels)
        finally:
            close_work(self.out)

    def _tried_by(self, crew: Crew, labels: Sequence[str]) -> Iterator[BandResult]:
        """Yield the results of attacks that a crew calls, a few of them ahead where it has several workers."""
        groups, begun = self.references.groups(), self._begun(crew, labels)
        shared = shared_groups(groups)
        waiting = deque(itertools.islice(begun, 1 if crew.workers == 1 else 1 + crew.workers))
        while waiting:
            unit, shards = waiting.popleft()
            scores = UnitScores([each.result() for each in shards], [self.measure], shared)
            yield measure_result(unit.attack.name, unit.seed, self.measure, scores, groups).bands[0]
            waiting.extend(itertools.islice(begun, 1))

    def _begun(self, crew: Crew, labels: Sequence[str]) -> Iterator[tuple[Unit, "list[Future[ShardScores]]"]]:
        """Submit and yield one attack after the other; as many preparations are under way as there are workers."""
        groups = self._by_preparation(labels)
        heads = iter([group[0][0] for group in groups])
        states = deque(crew.submit(partial(self._prepare, head)) for head in itertools.islice(heads, 1))
        for state in states:
            state.result()  # the first one alone: the others take the plain samples that it leaves
        for group in groups:
            more = itertools.islice(heads, crew.workers - len(states))
            states.extend([crew.submit(partial(self._prepare, head)) for head in more])
            state = states.popleft()
            for unit, label in group:
                done = _Done(f"candidates at {label}", self.plan.candidates)
                cut = Candidates(unit.seed, range(self.plan.candidates)).batches(self.plan.batching.shard)
                yield unit, [crew.submit(partial(self._shard, unit, state, batch, done)) for batch in cut]

    def _by_preparation(self, labels: Sequence[str]) -> list[list[tuple[Unit, str]]]:
        """Return the attacks with what is changed in each; those that share a state stand together."""

        def matters(one: tuple[Unit, str]) -> dict[str, Any]:
            attack = one[0].attack
            values: dict[str, Any] = attack.settings.model_dump(exclude=attack.generation_settings)
            return values

        return [list(group) for _, group in itertools.groupby(zip(self.plan.units, labels, strict=True), matters)]

    def _prepare(self, unit: Unit, makers: Makers) -> "AttackState":
        budget = Budget(unit.seed, self.plan.candidates, MemoryCheckpoints(), self.progress)
        samples = FolderCheckpoints(self.out / SAMPLES)
        return makers.of(unit).prepare(unit, self.plan.sampling, budget, samples).state

    def _shard(
        self, unit: Unit, state: "Future[AttackState]", batch: Candidates, done: "_Done", makers: Makers
    ) -> "ShardScores":
        """Make some candidates of an attack and score them: here, as that takes a fraction of making them."""
        import numpy as np

        made = makers.of(unit).generate(unit, state.result(), batch, self.plan.sampling)
        with self._scoring:
            found = self.scorer.score(made.images, np.asarray(batch.numbers), made.nan.numpy(), self.measure.space)
            done.count += len(batch)
            self.progress(done.phase, done.count, done.total)
        return found


@dataclass
class _Done:
    """How many candidates of an attack are made."""

    phase: str
    total: int
    count: int = 0


class _Here(Makers):
    """Calls every attack in this process."""

    def apart(self, unit: Unit) -> bool:
        return False
