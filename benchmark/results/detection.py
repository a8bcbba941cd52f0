"""Every key of detection.json, declared once with a sentence, and what a set of scores comes to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..data.pair import Control
from ..data.prompt_files import Label
from ..errors import CorruptRun, TooFew
from ..files import read_json
from ..protocol import CONFIDENCE
from ..stats.detection import NEGATIVES_AT, Kinds, PairOfDetectors, detection, needed
from ..stats.intervals import Excess
from .schema import Estimate

SCHEMA: Literal["sidebench-detection/1"] = "sidebench-detection/1"
DETECTION_FILE, PROVENANCE_FILE = "detection.json", "provenance.json"
PROVENANCE: Literal["sidebench-detection-provenance/1"] = "sidebench-detection-provenance/1"
FPRS = (0.01, 0.001)
"""False positive rates at which a TPR is given."""

_Read = TypeVar("_Read", bound=BaseModel)

Negatives = Literal["not replayed", "never seen"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Count(_Record):
    """Prompts with one label."""

    prompts: int = Field(description="how many")
    families: int = Field(description="caption families that they are of")


class Replay(_Record):
    """How labels came from images."""

    images: int = Field(description="images of each training caption, from noises that no detector is given")
    steps: int = Field(description="steps of the sampler that made them")
    guidance_scale: float = Field(description="scale of classifier-free guidance that made them")
    measure: str = Field(description="measure by which the nearest image of X and H is a caption's own")
    nfe: int = Field(description="denoiser calls that labelling took; no detector is charged with them")


class DetectorUsed(_Record):
    """One detector as it was run."""

    detector: str = Field(description="its name")
    version: int = Field(description="version of what ships under this name")
    settings: dict[str, Any] = Field(description="its settings")
    code: dict[str, str] = Field(description="which code it is")
    prompts: int = Field(description="prompts that it scored")
    nfe: int = Field(description="denoiser calls that this took; a derivative along a direction counts as two")
    flops: float = Field(description="operations outside the denoiser, of the text encoder")


class DetectorRates(_Record):
    """How well one detector parts memorised prompts from one kind of others."""

    detector: str = Field(description="its name")
    auc: Estimate = Field(description="chance that a memorised prompt scores above another one of another family")
    tpr: dict[str, Estimate] = Field(
        description="share of memorised prompts above the threshold, by the share of others that may be above it"
    )


class DetectorPair(_Record):
    """Two detectors compared on the same prompts and the same draws of families."""

    first: str = Field(description="the first detector")
    second: str = Field(description="the second detector")
    difference: Estimate = Field(description="AUC, or TPR, of the first minus that of the second")
    p: float = Field(description="two-sided p-value of no difference, after Holm over all pairs of this list")
    tie: bool = Field(description="whether p is above 0.05: nothing shows that one is better")


class AgainstNegatives(_Record):
    """Memorised prompts against one kind of others."""

    negatives: Negatives = Field(description="seen in training and not replayed, or never seen")
    refused: str = Field(description="why there are no numbers; empty where there are")
    left_out: dict[str, str] = Field(description="why there is no TPR, by the false positive rate")
    rates: list[DetectorRates] = Field(description="one entry per detector, highest AUC first")
    pairs: list[DetectorPair] = Field(description="all pairs of detectors, by AUC")
    tpr_pairs: dict[str, list[DetectorPair]] = Field(
        {}, description="the same by TPR, by the false positive rate; empty in older files"
    )


class DetectionResult(_Record):
    """The whole of detection.json."""

    schema_: Literal["sidebench-detection/1"] = Field(SCHEMA, alias="schema", description="version of this file")
    track: Literal["detection"] = Field("detection", description="never ranked with extraction")
    pair: str = Field(description="the pair's name")
    plan: dict[str, Any] = Field(description="what can change a number: a folder holds results of one plan")
    seed: int = Field(description="seed of all noises, and of the draws of families")
    counts: dict[Label, Count] = Field(description="prompts by label; ambiguous ones are not scored")
    cut: int = Field(description="scored prompts that are longer than the text encoder takes, which reads their start")
    dropped: int = Field(description="prompts of --negatives that are a caption of the pair, and so not never seen")
    replay: Replay | None = Field(description="how labels came about; none where a file gave them")
    detectors: list[DetectorUsed] = Field(description="one entry per detector, by name")
    against: list[AgainstNegatives] = Field(description="one entry per kind of other prompts")


class Provenance(_Record):
    """The whole of provenance.json: which model and images, and with what the numbers were made."""

    schema_: Literal["sidebench-detection-provenance/1"] = Field(
        PROVENANCE, alias="schema", description="version of this file"
    )
    pair: str = Field(description="the pair's name")
    revision: int = Field(description="the pair's revision")
    identity: str = Field(description="hash of all in the pair that can move a number")
    family: str = Field(description="family of the model")
    control: Control = Field(description="kind of control of the pair")
    sources: dict[str, dict[str, str]] = Field(description="where model and images came from on the Hub")
    model_sha256: dict[str, str] = Field(description="SHA-256 by file name of the model")
    data_sha256: str = Field(description="fingerprint of all images of the data set")
    sides_sha256: str = Field(description="hash of which images of the data set are training and which held-out")
    training_images: int = Field(description="|X|")
    held_out_images: int = Field(description="|H|")
    training_groups: int = Field(description="duplicate groups in X")
    held_out_groups: int = Field(description="duplicate groups in H")
    public: bool = Field(description="the images are published")
    made_by: str = Field(description="how others get the pair that neither ships nor comes from the Hub")
    negatives: int = Field(description="never-seen prompts that came from a file, and not from the pair")
    device: str = Field(description="cpu, cuda or mps")
    micro_batch: int = Field(description="rows that the denoiser sees at a time")
    started: str = Field(description="when the folder was opened first (UTC)")
    environments: list[dict[str, Any]] = Field(
        description="versions and hardware of every call that went on under others than the one before"
    )


def counted(labels: np.ndarray, families: np.ndarray) -> dict[Label, Count]:
    """Return how many prompts and families each label has.

    Args:
        labels: (N,) labels.
        families: (N,) caption families.
    """
    chosen = {label: families[labels == label] for label in get_args(Label)}
    return {label: Count(prompts=len(own), families=len(np.unique(own))) for label, own in chosen.items()}


def against(
    negatives: Negatives, scores: Mapping[str, np.ndarray], labels: np.ndarray, families: np.ndarray, seed: int
) -> AgainstNegatives:
    """Compare memorised prompts with one kind of others; too few of these are said, not raised.

    Args:
        negatives: Which others.
        scores: (N,) by detector.
        labels: (N,) labels.
        families: (N,) caption families.
        seed: Of the draws of families.
    """
    rows = np.isin(labels, ("memorised", negatives))
    kinds = Kinds(labels[rows] == "memorised", families[rows])
    count = len(np.unique(kinds.families[~kinds.positive]))
    short = {
        f"{fpr:g}": f"{count:,} of {needed(fpr):,} families that it needs"
        for fpr in NEGATIVES_AT
        if count < needed(fpr)
    }
    empty: dict[str, Any] = {"negatives": negatives, "left_out": short, "rates": [], "pairs": [], "tpr_pairs": {}}
    try:
        found = detection({name: own[rows] for name, own in scores.items()}, kinds, FPRS, seed=seed)
    except TooFew as error:
        return AgainstNegatives(**empty, refused=str(error))
    rates = [
        DetectorRates(
            detector=name,
            auc=_estimate(found.aucs[name]),
            tpr={f"{fpr:g}": _estimate(by_name[name]) for fpr, by_name in found.rates.items()},
        )
        for name in sorted(scores, key=lambda name: -found.aucs[name].value)
    ]
    compared = {
        "pairs": [_pair(pair) for pair in found.pairs],
        "tpr_pairs": {f"{fpr:g}": [_pair(pair) for pair in pairs] for fpr, pairs in found.rate_pairs.items()},
    }
    return AgainstNegatives(**{**empty, "rates": rates, **compared}, refused="")


def read_detection(file: Path) -> DetectionResult:
    """Read detection.json.

    Raises:
        CorruptRun: it is not what was written, or of another schema.
    """
    return _read(DetectionResult, file)


def read_provenance(file: Path) -> Provenance:
    """Read provenance.json.

    Raises:
        CorruptRun: it is not what was written, or of another schema.
    """
    return _read(Provenance, file)


def _read(kind: type[_Read], file: Path) -> _Read:
    content = read_json(file)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CorruptRun(f"{file.parent.name}/{file.name}, {key}: {error.errors()[0]['msg']}") from None


def _estimate(found: Excess) -> Estimate:
    return Estimate.of(*found)


def _pair(found: PairOfDetectors) -> DetectorPair:
    return DetectorPair(
        first=found.first,
        second=found.second,
        difference=_estimate(found.difference),
        p=found.adjusted,
        tie=found.adjusted > 1 - CONFIDENCE,
    )
