"""`sidebench detect`: score prompts by detectors, and say how well each finds those that the model gives back.

Labels come from images that are made from noises of a purpose which no detector is given. Detectors see prompts and
the weights; which prompt is memorised is known here alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import environment
from ..candidates import Candidates, stream_seed
from ..contracts import AttackState, Checkpoints, Detector, ModelSpec, Progress
from ..data.pair import Pair
from ..data.prompt_files import ListedPrompt, read_prompts
from ..errors import AttackFailed, BadInput, BadSetting, TooFew, UnknownName, blaming
from ..files import content_sha256, short_hash, write_checked_json, write_table
from ..models.find_model import find_model
from ..progress import silent
from ..protocol import Sampling
from ..registry import code_of, make_detector, names, source_of
from ..results.checkpoints import FolderCheckpoints
from ..results.detection import (
    DETECTION_FILE,
    DetectionResult,
    DetectorUsed,
    Negatives,
    Replay,
    against,
    counted,
    read_detection,
)
from ..results.run_folder import RunFolder
from ..stats.detection import LEAST_FAMILIES
from .batching import sampling_of

if TYPE_CHECKING:
    from ..contracts import Measure, Model
    from ..data.references import References
    from ..sampling.views import AuditedModel

BLOCK = 64
"""Prompts between two checkpoints."""

PURPOSE = "detection"
"""Of the noises that detectors draw."""

GUIDANCE = 7.5
"""Where the pair does not say how its captions are replayed."""

KINDS: tuple[Negatives, Negatives] = ("not replayed", "never seen")


class Prompts(NamedTuple):
    """Prompts of one detection, each once."""

    texts: list[str]
    families: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N,) labels; "" for training captions, before they are replayed."""
    dropped: int = 0
    """Prompts of a file that are a caption of the pair."""

    def at(self, rows: np.ndarray) -> list[str]:
        """Return some of the texts."""
        return [self.texts[row] for row in np.flatnonzero(rows)]

    def sha256(self) -> str:
        """Return the hash of texts, families and labels."""
        return content_sha256([self.texts, self.families.tolist(), self.labels.tolist()])


class Detected(NamedTuple):
    """A folder of results, and what its detection.json holds."""

    folder: Path
    result: DetectionResult


def detect(
    pair: Pair,
    detectors: Sequence[str] = (),
    *,
    out: Path,
    negatives: Path | None = None,
    prompts: Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    images: int = 4,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Detected:
    """Label a pair's captions by replaying them, score all prompts by each detector, and compare the detectors.

    A second call goes on where the first one stopped; a finished folder is read.

    Args:
        pair: A text-to-image model and its captioned images.
        detectors: Names; all that are registered and fit the model where none is given.
        out: Folder in which the folder of results is made.
        negatives: A file of more prompts that were never seen.
        prompts: A file of labelled prompts in place of the pair's captions.
        settings: Of detectors, by name.
        images: Made of each training caption.
        steps: Of the sampler that makes them, in place of the pair's.
        seed: Of all noises.
        device: Where the model runs.
        progress: Called along the way.

    Raises:
        BadInput: the model takes no prompts, a detector does not fit it, or the pair has no captions.
        TooFew: memorised prompts are of fewer than 10 families.
    """
    listed = None if prompts is None else _labelled(prompts)
    if listed is None and pair.data.captions is None:
        raise BadInput(f"pair {pair.name} has no captions: give it data.captions, or a labelled list with --prompts")
    if listed is not None and negatives is not None:
        raise BadSetting("--negatives adds to the pair's captions; put these prompts into the file of --prompts")
    more = [] if negatives is None else read_negatives(negatives)
    if listed is not None:
        _enough_memorised(listed)
    spec, sources = find_model(pair, None, out)
    if spec.family != "text":
        raise BadInput(f"pair {pair.name}: detectors score prompts, and its model of family {spec.family} takes none")
    guidance = guidance_of(pair)
    chosen = _made(detectors, settings or {}, guidance)
    known = None
    if listed is None:
        from ..data.references import load_references

        known = load_references(pair, progress)
        listed = prompts_of_pair(pair, known, more)
    plan = _plan(pair, spec, chosen, listed, {"images": images, "steps": steps, "guidance": guidance, "seed": seed})
    folder = out / f"{pair.name}-{short_hash(plan)}"
    file = folder / DETECTION_FILE
    if file.exists():
        return Detected(folder, read_detection(file))
    with RunFolder(folder).locked():
        bench = Bench(pair, spec, device, folder, seed, len(listed.texts), progress)
        chosen = bench.fitting(chosen, named=bool(detectors))
        replay = None
        if known is not None:
            bench.note(known, spec, sources, len(more) - listed.dropped)
            listed, replay = bench.labelled(listed, known, images, steps, guidance)
            _enough_memorised(listed)
        return Detected(folder, bench.finished(chosen, listed, replay, plan))


# ---- Prompts and their labels -----------------------------------------------------------------------


def _labelled(path: Path) -> Prompts:
    rows = read_prompts(path)
    if missing := sum(row.label is None for row in rows):
        few = f"{missing:,} of {len(rows):,} prompts"
        raise BadInput(f"{path}: {few} have no label: add a column `label`, or a label and a tab")
    return Prompts([row.text for row in rows], _numbered(rows, 0), np.array([str(row.label) for row in rows]))


def read_negatives(path: Path) -> list[ListedPrompt]:
    """Return the prompts of a file that were never seen; raises `BadInput` where one is labelled otherwise."""
    rows = read_prompts(path)
    if any(row.label not in (None, "never seen") for row in rows):
        raise BadInput(f"{path}: --negatives takes prompts that were never seen; labelled ones go to --prompts")
    return rows


def _plain(text: str) -> str:
    """Return a prompt as prompts are compared: tokenizers read no case and no run of blanks."""
    return " ".join(text.lower().split())


def _numbered(rows: Sequence[ListedPrompt], first: int) -> np.ndarray:
    """Return the family of each prompt of a file, numbered from `first`; one without a family is one of its own."""
    named = [("family", row.family) if row.family else ("text", _plain(row.text)) for row in rows]
    numbers = {name: first + place for place, name in enumerate(dict.fromkeys(named))}
    return np.array([numbers[name] for name in named], dtype=np.int64)


def prompts_of_pair(pair: Pair, known: "References", more: Sequence[ListedPrompt]) -> Prompts:
    """Return the captions of training images, which are to be labelled, and all that were never seen.

    Captions of both sides, and those of images in a near-duplicate group of both, take no part.
    """
    from ..data.captions import caption_families, captions_of
    from ..data.references import shared_groups

    if captions_of(known) is None:
        raise BadInput(f"pair {pair.name}: not all of its images have a caption")
    parts = [known.training, known.held_out, known.pool]
    families = caption_families(parts)
    shared = shared_groups(known.groups())
    seen = set(known.training.captions or ())
    both = seen & set(known.held_out.captions or ())
    found: dict[str, tuple[str, int]] = {}
    for place, (text, family) in enumerate(zip(known.training.captions or (), families[0], strict=True)):
        if text not in both and not shared["training"][place]:
            found.setdefault(text, ("", int(family)))
    for part, own in zip(parts[1:], families[1:], strict=True):
        left_out = shared.get("held_out", np.zeros(0, dtype=bool)) if part is known.held_out else None
        for place, (text, family) in enumerate(zip(part.captions or (), own, strict=True)):
            if text not in seen and not (left_out is not None and left_out[place]):
                found.setdefault(text, ("never seen", int(family)))
    every = {_plain(text) for part in parts for text in part.captions or ()}
    new = [row for row in more if _plain(row.text) not in every]
    first = 1 + max(int(own.max()) for own in families if len(own))
    for row, family in zip(new, _numbered(new, first).tolist(), strict=True):
        found[row.text] = ("never seen", family)
    return Prompts(
        list(found),
        np.array([family for _, family in found.values()], dtype=np.int64),
        np.array([label for label, _ in found.values()], dtype="<U12"),
        len(more) - len(new),
    )


def _enough_memorised(listed: Prompts) -> None:
    """Raise `TooFew` where too few families are memorised for any number."""
    families = len(np.unique(listed.families[listed.labels == "memorised"]))
    if families == 0:
        raise TooFew("no prompt is memorised, so there is nothing to detect")
    if families < LEAST_FAMILIES:
        raise TooFew(f"memorised prompts are of {families} families: AUC and TPR need {LEAST_FAMILIES}")


# ---- Plan -------------------------------------------------------------------------------------------


def guidance_of(pair: Pair) -> float:
    """Return the scale of guidance with which a pair's captions are replayed."""
    replaying = pair.attacks.get("prompt-replay")
    return float(GUIDANCE if replaying is None else replaying.settings.get("guidance_scale", GUIDANCE))


def _made(asked: Sequence[str], settings: Mapping[str, Mapping[str, Any]], guidance: float) -> list[Detector]:
    """Build the detectors, in the order of their names; one with a guided path takes the pair's guidance."""
    from ..registry import find

    chosen = list(dict.fromkeys(asked)) or names("detector")
    found = []
    for name in chosen:
        cls = find("detector", name)
        own = dict(settings.get(name, settings.get(cls.name, {})))
        if "guidance_scale" in cls.Settings.model_fields:
            own = {"guidance_scale": guidance, **own}
        found.append(make_detector(name, own))
    known = {*chosen, *(each.name for each in found)}
    if unknown := next((name for name in settings if name not in known), None):
        raise UnknownName("detector of --set", unknown, known)
    if len({each.name for each in found}) < len(found):
        raise BadInput("two detectors have the same name; give one of them another")
    return sorted(found, key=lambda each: each.name)


def _plan(
    pair: Pair, spec: ModelSpec, detectors: Sequence[Detector], prompts: Prompts, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what can change a number; no text of a prompt is in it."""
    return {
        "pair": pair.identity(),
        "model": content_sha256(spec.content()),
        "prompts": prompts.sha256(),
        "detectors": {
            each.name: {
                "settings": each.settings.model_dump(mode="json"),
                "version": each.version,
                "code": code_of(type(each)),
            }
            for each in detectors
        },
        **more,
    }


# ---- Work -------------------------------------------------------------------------------------------


class Bench:
    """The model, and a folder in which finished blocks are kept."""

    def __init__(
        self, pair: Pair, spec: ModelSpec, device: str, folder: Path, seed: int, prompts: int, progress: Progress
    ) -> None:
        from ..models import load_model

        self.pair, self.folder, self.seed, self.progress = pair, folder, seed, progress
        self.device = environment.pick_device(device)
        self.model: Model = load_model(spec.model_copy(update={"device": str(self.device)}))
        self.sampling: Sampling = sampling_of(pair, self.model, min(prompts, BLOCK))
        self.kept: Checkpoints = FolderCheckpoints(folder / "blocks")

    def fitting(self, detectors: Sequence[Detector], *, named: bool) -> list[Detector]:
        """Return the detectors that fit the model.

        Raises:
            BadInput: one that the user named does not, or none does.
        """
        try:
            self.model.prompt_tokens([""])
            return list(detectors)
        except BadInput as error:
            rest = [each for each in detectors if not each.attends]
            if not rest or (named and len(rest) < len(detectors)):
                raise BadInput(f"{next(each.name for each in detectors if each.attends)}: {error}") from None
            return rest

    def note(self, known: "References", spec: ModelSpec, sources: Mapping[str, dict[str, str]], negatives: int) -> None:
        """Write down which model and images the numbers are of, and with what they are made."""
        from ..models import inspect_files
        from .provenance import note_provenance

        hashed = spec.model_copy(update={"sha256": inspect_files(spec).sha256})
        batch = self.sampling.micro_batch
        note_provenance(self.folder, self.pair, hashed, sources, known, negatives, str(self.device), batch)

    def labelled(
        self, prompts: Prompts, known: "References", images: int, steps: int | None, guidance: float
    ) -> tuple[Prompts, Replay]:
        """Label the training captions by what comes of them."""
        from ..measures.scorer import Scorer
        from .victim import fitting

        rows = np.flatnonzero(prompts.labels == "")
        texts = fitting(self.model, [prompts.texts[row] for row in rows], self.pair.name)
        measure = self._measure(known)
        scorer = Scorer(known, [measure], max(1, measure.neighbours), self.device)
        sampler = self.sampling.sampler if steps is None else self.sampling.sampler.model_copy(update={"steps": steps})
        owned, nfe = np.empty(0), 0
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            state = self.kept.load(f"labels-{start}")
            if state is None:
                state = self._replayed(block, known, scorer, measure, images, guidance, sampler)
                self.kept.save(f"labels-{start}", state)
            owned = np.concatenate([owned, state.tensors["owned"].numpy()])
            nfe += int(state.info["nfe"])
            self.progress("labels", len(owned), len(texts))
        labels = prompts.labels.copy()
        labels[rows] = np.where(owned >= 0.5, "memorised", np.where(owned == 0, "not replayed", "ambiguous"))
        replay = Replay(images=images, steps=sampler.steps, guidance_scale=guidance, measure=measure.id, nfe=nfe)
        return prompts._replace(labels=labels), replay

    def _measure(self, known: "References") -> "Measure":
        """Return the pair's first measure that needs no round trip."""
        from .plugins import make_measures

        channels, height, width = self.model.image_shape
        smallest = min(len(part) for part in (known.training, known.held_out) if len(part))
        made = make_measures(self.pair, (height, width, channels), smallest=smallest)
        return next(each for each in made if each.round_trip_of is None)

    def _replayed(
        self,
        texts: list[str],
        known: "References",
        scorer: Any,
        measure: "Measure",
        images: int,
        guidance: float,
        sampler: Any,
    ) -> AttackState:
        """Return of each caption the share of its images to which its own is nearest, a tie with H counting half."""
        import torch

        from ..sampling.sampler import quantise
        from ..sampling.views import AuditedModel

        view = AuditedModel(self.model, sampler, self.sampling.micro_batch)
        owned = np.zeros(len(texts))
        for image in range(images):
            asked = Candidates(self.seed, _numbers(texts), f"label {image}")
            made = quantise(view.sample_prompts(asked, texts, guidance_scale=guidance))
            owned += own_shares(scorer.score_finite(made, measure.space), measure, texts, known)
        return AttackState({"owned": torch.from_numpy(owned / images)}, {"nfe": sum(view.ledger.nfe.values())})

    def scores(self, detector: Detector, texts: list[str]) -> tuple[np.ndarray, DetectorUsed]:
        """Return a detector's number for each prompt, and what it cost.

        Raises:
            AttackFailed: it raised, or returned something that its contract does not allow.
        """
        import torch

        from ..sampling.views import AuditedModel

        found, nfe, flops = np.empty(0), 0, 0.0
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            state = self.kept.load(f"{detector.name}-{start}")
            if state is None:
                view = AuditedModel(self.model, self.sampling.sampler, self.sampling.micro_batch)
                made = call_detector(detector, view, block, self.seed)
                cost = {"nfe": sum(view.ledger.nfe.values()), "flops": sum(view.ledger.flops.values())}
                state = AttackState({"scores": torch.from_numpy(made)}, cost)
                self.kept.save(f"{detector.name}-{start}", state)
            found = np.concatenate([found, state.tensors["scores"].numpy()])
            nfe, flops = nfe + int(state.info["nfe"]), flops + float(state.info["flops"])
            self.progress(detector.name, len(found), len(texts))
        used = DetectorUsed(
            detector=detector.name,
            version=detector.version,
            settings=detector.settings.model_dump(mode="json"),
            code=code_of(type(detector)),
            prompts=len(texts),
            nfe=nfe,
            flops=flops,
        )
        return found, used

    def finished(
        self, detectors: Sequence[Detector], listed: Prompts, replay: Replay | None, plan: Mapping[str, Any]
    ) -> DetectionResult:
        """Score what is not ambiguous by each detector, compare them, and write detection.json last."""
        scored = listed.labels != "ambiguous"
        texts, labels, families = listed.at(scored), listed.labels[scored], listed.families[scored]
        made = {detector.name: self.scores(detector, texts) for detector in detectors}
        scores = {name: found for name, (found, _) in made.items()}
        result = DetectionResult(
            pair=self.pair.name,
            plan=dict(plan),
            seed=self.seed,
            counts=counted(listed.labels, listed.families),
            cut=len(self.model.too_long(texts)),
            dropped=listed.dropped,
            replay=replay,
            detectors=[used for _, used in made.values()],
            against=[against(kind, scores, labels, families, self.seed) for kind in KINDS],
        )
        columns = {"prompt": np.flatnonzero(scored), "family": families, "label": labels.tolist(), **scores}
        _write_table(self.folder / "scores.parquet", columns)
        write_checked_json(self.folder / DETECTION_FILE, result.model_dump(mode="json", by_alias=True))
        return result


def own_shares(scores: Any, measure: "Measure", texts: Sequence[str], known: "References") -> np.ndarray:
    """Return how far each image is its caption's own: 1 where the nearest of X and H is of the caption, else 0.

    1/2 where an image of H is as near. Groups of near-duplicates count as one image.

    Args:
        scores: The search result of one image for each caption (`ShardScores`).
        measure: Whose scores are compared.
        texts: (N,) captions of training images.
        known: The pair's images.
    """
    from ..data.references import shared_groups
    from ..measures.hits import owned_shares

    left_out = shared_groups(known.groups())
    sides = scores.sides
    best = {side: scores.best_scores(measure, side, left_out[side]) for side in sides}
    groups = known.training.groups
    own = {(text, int(group)) for text, group in zip(known.training.captions or (), groups, strict=True)}
    nearest = groups[scores.best_ids("training", left_out["training"])]
    is_own = np.array([(text, int(group)) in own for text, group in zip(texts, nearest, strict=True)])
    shares = np.ones(len(texts))
    if len(sides) > 1:
        shares = owned_shares(best["training"], best["held_out"], measure)[0]
    found: np.ndarray = is_own * np.isfinite(best["training"]) * shares
    return found


def _numbers(texts: Sequence[str]) -> list[int]:
    """Return the number under which a prompt draws: its own, whatever other prompts there are."""
    return [stream_seed(0, "prompt", 0, text) >> 16 for text in texts]


def call_detector(detector: Detector, view: "AuditedModel", prompts: Sequence[str], seed: int) -> np.ndarray:
    """Return a detector's number for each prompt, (N,) float64; what it cost stands in the view's ledger.

    Raises:
        AttackFailed: it raised, or returned something else than a finite number for each prompt.
    """
    with blaming(f"detector {detector.name}", AttackFailed, source_of(type(detector))):
        found = np.asarray(detector.score(view, prompts, Candidates(seed, _numbers(prompts), PURPOSE)), np.float64)
    if found.shape != (len(prompts),) or not np.isfinite(found).all():
        count = len(prompts)
        raise AttackFailed(f"detector {detector.name}: score must return a finite number for each of {count} prompts")
    return found


def _write_table(file: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa

    write_table(file, pa.table(columns))
