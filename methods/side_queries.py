"""side-queries: black-box SIDE (arXiv 2410.02467, appendix E), a genetic search over prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..benchmark.candidates import Candidates, generator
from ..benchmark.contracts import (
    Ablation,
    Access,
    Attack,
    AttackState,
    Budget,
    Conditioning,
    Generated,
    QueriedModel,
)
from . import surrogate
from .features import Describe, check_weights
from .networks import SurrogateClassifier, forward_flops
from .prompt_search import Prompt, Scored, first_population, search
from .vocabulary import Vocabulary, words

Fitness = Callable[[Tensor], Sequence[float]]
"""Scores of images, N x C x H x W in [0, 1]; higher is nearer to the cluster that is asked for."""


class SideQueriesSettings(surrogate.ClassifierSettings):
    """What is asked of the service, and how its answers select the next prompts."""

    synthetic_images: int = Field(1024, ge=2)
    """N_syn: images for clusters and classifier, each a query with a prompt of the vocabulary."""
    clusters: int = Field(50, ge=2)
    """K: fewer than the paper's 100, as there are fewer images."""
    labels: Literal["clusters", "random"] = "clusters"
    """random: drawn evenly and without regard to the image."""
    vocabulary: Vocabulary = "common"
    """common: some 330 English words that captions use. unicode: the 1,000 most frequent words of Unicode names."""
    targets: int = Field(20, ge=1)
    """Clusters that are searched for, the most cohesive first."""
    population: int = Field(50, ge=2)
    """Prompts of a generation; the paper's value."""
    generations: int = Field(10, ge=0)
    """G: the paper goes from 10 to 800. 0: as many prompts of the vocabulary, and no selection."""
    elite: int = Field(4, ge=1)
    """Prompts kept of each target, the best of all generations."""
    fitness: Literal["classifier", "cosine", "random"] = "classifier"
    """classifier: log p(c | x_0) of a classifier trained on the clusters, as in the paper. cosine: of features to the
    cluster's centre, so that there is no classifier to fool. random: no information, an ablation."""
    service_guidance: float = Field(7.5, ge=1)
    """Guidance scale of the service, which the attacker cannot choose."""

    @model_validator(mode="after")
    def _enough_prompts(self) -> Self:
        if self.elite > self.population:
            raise ValueError(f"elite = {self.elite} of a population of {self.population}")
        return self


class SideQueries(Attack):
    """Search for prompts whose images look like clusters of the model's own samples; send the best ones.

    All of the search is in `prepare`, which knows neither weights nor captions: it sends prompts and counts them.
    Candidate i sends prompt i mod E of those that were found, with its own noise, so nothing is selected on noise. The
    paper keeps the best image of each generation instead; with one image a generation its denominator is unknown.
    """

    name: ClassVar[str] = "side-queries"
    title: ClassVar[str] = "surrogate conditional data extraction, black box"
    paper: ClassVar[str] = "arXiv 2410.02467, appendix E"
    access: ClassVar[Access] = "queries"
    conditionings: ClassVar[frozenset[Conditioning]] = frozenset({"text"})
    Settings = SideQueriesSettings
    generation_settings: ClassVar[frozenset[str]] = frozenset()
    tuning_grid: ClassVar[Mapping[str, Sequence[Any]]] = {"generations": (5, 10, 20), "elite": (1, 4, 16)}
    ablations: ClassVar[Mapping[str, Ablation]] = {
        "random-fitness": Ablation({"fitness": "random"}),
        "cosine": Ablation({"fitness": "cosine"}),
        "no-generations": Ablation({"generations": 0}),
    }

    def check(self) -> None:
        """Refuse features whose network cannot be loaded."""
        check_weights(self.settings.features)

    def prepare(self, model: QueriedModel, budget: Budget) -> AttackState:
        """Phase 1: images, clusters, fitness. Phase 2: a search for each target, a checkpoint after each of them."""
        settings, vocabulary = self.settings, words(self.settings.vocabulary)
        if not settings.generations:
            draw = generator(budget.seed, self.name, 0, "vocabulary")
            prompts = first_population(vocabulary, settings.elite * settings.targets, draw)
            return _state([Scored(prompt, 0.0) for prompt in prompts], [0] * len(prompts), 0, {})
        images = self._synthetic(model, vocabulary, budget)
        attacker: Any = _Attacker(model)  # clusters and classifier take of a model what this has
        labels = surrogate.pseudo_label(attacker, images, settings, budget.seed)
        fitness, trained = self._fitness(attacker, images, labels, budget)
        targets = _most_cohesive(labels, settings.cohesion, settings.targets)
        found: list[Scored] = []
        for place, cluster in enumerate(targets):
            found += self._searched(model, vocabulary, place, fitness(cluster), budget)
            budget.progress("targets", place + 1, len(targets))
        queries = settings.synthetic_images + len(targets) * settings.generations * settings.population
        info = {"cohesions": labels.cohesions, "sizes": labels.sizes, **trained}
        return _state(found, np.repeat(targets, settings.elite).tolist(), queries, info)

    def generate(self, model: QueriedModel, state: AttackState, candidates: Candidates) -> Generated:
        """Send the prompts that were found, in turn."""
        found = _prompts(state)
        chosen = [number % len(found) for number in candidates.numbers]
        prompts = [found[place] for place in chosen]
        images = model.sample_prompts(candidates, prompts, guidance_scale=self.settings.service_guidance)
        cluster = state.tensors["cluster"].numpy()[chosen]
        return Generated(images, {"query": np.array(chosen, dtype=np.int64), "cluster": cluster})

    def _synthetic(self, model: QueriedModel, vocabulary: Sequence[str], budget: Budget) -> Tensor:
        """Return images of prompts of the vocabulary, one each."""
        kept = budget.checkpoints.load("synthetic")
        if kept is None:
            numbers = range(self.settings.synthetic_images)
            draw = generator(budget.seed, self.name, 0, "synthetic prompts")
            prompts = [" ".join(one) for one in first_population(vocabulary, len(numbers), draw)]
            images = self._ask(model, Candidates(budget.seed, numbers, "synthetic"), prompts)
            # Eight bits, so that a resumed search sees the same images.
            kept = AttackState({"images": (images * 255).round().to(torch.uint8)})
            budget.checkpoints.save("synthetic", kept)
        return kept.tensors["images"].float() / 255

    def _ask(self, model: QueriedModel, candidates: Candidates, prompts: Sequence[str]) -> Tensor:
        return model.sample_prompts(candidates, prompts, guidance_scale=self.settings.service_guidance)

    def _fitness(
        self, attacker: Any, images: Tensor, labels: surrogate.PseudoLabels, budget: Budget
    ) -> tuple[Callable[[int], Fitness], dict[str, Any]]:
        """Return the fitness by cluster, and what its training says of itself."""
        if self.settings.fitness == "random":
            return lambda cluster: _at_random(budget.seed, cluster), {}
        if self.settings.fitness == "cosine":
            describe = surrogate.features_of(attacker, images, self.settings, budget.seed)
            features = _unit(describe(labels.images))
            return lambda cluster: _by_cosine(describe, features[labels.labels == cluster]), {}
        network = surrogate.make_classifier(attacker, len(labels.sizes), self.settings, time_conditioned=False)
        info = surrogate.train(network, attacker, labels.encoded(attacker)[0], self.settings, budget)
        return lambda cluster: _by_classifier(network, attacker, cluster), {"training": info}

    def _searched(
        self, model: QueriedModel, vocabulary: Sequence[str], place: int, fitness: Fitness, budget: Budget
    ) -> list[Scored]:
        """Return the best prompts for one target, searched now or before the run was killed."""
        settings, name = self.settings, f"target-{place}"
        if (kept := budget.checkpoints.load(name)) is not None:
            scores = kept.tensors["fitness"].tolist()
            return [Scored(tuple(text.split()), score) for text, score in zip(_prompts(kept), scores, strict=True)]

        def ask(prompts: Sequence[Prompt], generation: int) -> Sequence[float]:
            first = (place * settings.generations + generation) * settings.population
            candidates = Candidates(budget.seed, range(first, first + len(prompts)), "search")
            return fitness(self._ask(model, candidates, [" ".join(prompt) for prompt in prompts]))

        def draw(generation: int) -> torch.Generator:
            return generator(budget.seed, self.name, place * settings.generations + generation, "evolve")

        every = search(vocabulary, settings.population, settings.generations, ask, draw)
        best: dict[Prompt, float] = {}
        for one in (one for scored in every for one in scored):
            best[one.prompt] = max(one.score, best.get(one.prompt, one.score))
        ordered = sorted((Scored(*pair) for pair in best.items()), key=lambda one: (-one.score, one.prompt))
        found = ordered[: settings.elite]
        budget.checkpoints.save(name, _state(found, [place] * len(found), 0, {}))
        return found


class _Attacker:
    """What the attacker's own networks are given in place of a white-box model: images, and where to run."""

    num_train_timesteps = 1

    def __init__(self, model: QueriedModel) -> None:
        self.device, self.charge = model.device, model.charge
        self.sample_shape = self.image_shape = model.image_shape

    def encode(self, images: Tensor) -> Tensor:
        """Scale [0, 1] to [-1, 1]."""
        return images.to(self.device) * 2 - 1


def _by_classifier(network: SurrogateClassifier, attacker: Any, cluster: int) -> Fitness:
    work = forward_flops(network, attacker.sample_shape)

    @torch.no_grad()
    def scores(images: Tensor) -> Sequence[float]:
        attacker.charge(len(images) * work)
        found: list[float] = network(attacker.encode(images)).log_softmax(1)[:, cluster].cpu().tolist()
        return found

    return scores


def _by_cosine(describe: Describe, members: np.ndarray) -> Fitness:
    centre = _unit(members.mean(0))
    return lambda images: [float(value) for value in _unit(describe(images)) @ centre]


def _at_random(seed: int, cluster: int) -> Fitness:
    draw = generator(seed, "random fitness", cluster, "scores")
    return lambda images: torch.rand(len(images), generator=draw).tolist()


def _most_cohesive(labels: surrogate.PseudoLabels, cohesion: float, count: int) -> list[int]:
    """Return the surviving clusters (numbered as the labels are), the most cohesive first."""
    survivors = [value for value in labels.cohesions if value >= cohesion and value != 0][: len(labels.sizes)]
    # A centre that no image is nearest to, once the loose clusters are gone, is nothing to search for.
    members = [c for c in range(len(survivors)) if labels.sizes[c]]
    return sorted(members, key=lambda c: (-survivors[c], c))[:count]


def _unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return found


def _state(found: Sequence[Scored], clusters: Sequence[int], queries: int, info: Mapping[str, Any]) -> AttackState:
    """Return prompts (lines of text, as bytes), their clusters and fitness, and the queries that they cost."""
    text = "\n".join(" ".join(one.prompt) for one in found).encode()
    tensors = {
        "prompts": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        "cluster": torch.tensor(clusters, dtype=torch.int64),
        "fitness": torch.tensor([one.score for one in found], dtype=torch.float64),
    }
    return AttackState(tensors, {"queries": queries, **info})


def _prompts(state: AttackState) -> list[str]:
    return bytes(state.tensors["prompts"].tolist()).decode().split("\n")
