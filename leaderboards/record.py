"""A record: one claim of a leaderboard as one JSON file, that an attack finds so much of a pair's training set.

A record is made from a run folder and stands for itself: who, what was attacked how, every count with its interval,
cost, versions, and hashes of what it rests on. It names training images by keyed hashes only and holds no image,
path, host name or token. What hit is stored by candidate and by duplicate group, so that the excess, its interval
and paired tests can be computed again from records alone.
"""

import base64
import json
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..benchmark.contracts import Access
from ..benchmark.data.pair import IN_TRAINING, Control
from ..benchmark.errors import BadRecord
from ..benchmark.protocol import Protocol
from ..benchmark.results.schema import (
    CaptionFlags,
    ControlCheck,
    Cost,
    Estimate,
    Exposure,
    OwnImages,
    Reach,
    Result,
    fair_control,
)
from ..benchmark.stats.comparison import AttackHits, pooled
from ..benchmark.stats.owned import Strata
from .signed_record import Frozen, SignedRecord

SCHEMA = "sidebench-record/6"
"""Written by this version, published in schemas/; `read_records.py` brings older ones up to it."""


BoardKind = Literal["attacks", "defences"]
Part = Literal["training", "control"]
Track = Literal["extraction", "images"]

FEWEST = 5
"""Groups in the smallest cell of a histogram in a record of images that are not public."""
PARTS: tuple[Part, Part] = ("training", "control")


class Claim(Frozen):
    """The method that the record is about."""

    attack: str = Field(max_length=64, description="name of the attack")
    version: int = Field(
        ge=1, lt=2**31, description="version of the attack, raised by any change that can move a number"
    )
    access: Access = Field(description="what the attack sees of the model; oracle is never ranked")
    settings: dict[str, Any] = Field(description="every setting of the attack")
    defences: dict[str, dict[str, Any]] = Field(description="settings by name of each defence around the model")
    code: dict[str, dict[str, str]] = Field(
        description="by name of the attack and each defence that ships not with sidebench: package, version, SHA-256"
    )


class Source(Frozen):
    """A repository of the Hub at one commit."""

    repo: str = Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", max_length=128, description="OWNER/NAME")
    commit: str = Field(pattern=r"^[0-9a-f]{40}$", description="full hash of the commit")


class Victim(Frozen):
    """The pair that was attacked: model, training images and control."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64, description="name of the pair")
    revision: int = Field(ge=1, description="revision of the pair")
    identity: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of all in the pair that can move a number")
    family: str = Field(max_length=64, description="family of the model")
    sources: dict[Literal["model", "data", "reference_model"], Source] = Field(
        description="where model and images came from; empty for what ships with sidebench or lay in a folder"
    )
    model_sha256: dict[str, str] = Field(description="SHA-256 by file name of the model")
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="fingerprint of all images of the data set")
    sides_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="hash of which images of the data set are training and which held-out"
    )
    control: Control = Field(description="kind of control; different kinds are never ranked together")
    reference_sha256: dict[str, str] = Field(description="SHA-256 by file name of the reference model; empty without")
    control_check: ControlCheck | None = Field(description="whether training and held-out images can be told apart")
    training_images: int = Field(ge=1, description="|X|")
    held_out_images: int = Field(ge=0, description="|H|")
    training_groups: int = Field(ge=1, description="duplicate groups in X")
    held_out_groups: int = Field(ge=0, description="duplicate groups in H")
    public: bool = Field(
        True, description="the images are published, so that the record may say of each candidate whether it hit"
    )
    made_by: str = Field(
        "", max_length=300, description="how others get the pair that neither ships nor comes from the Hub"
    )
    worked_example: bool = Field(description="public data that ship with sidebench: an example, not a finding")
    classes: list[tuple[int, int]] = Field(
        [],
        description="compared groups of X and of H by class of their number of images; empty: all are of one class",
    )

    @property
    def same_groups(self) -> bool:
        """Whether the control hits the same duplicate groups: those of X, by a reference model."""
        return self.control == "reference-model"

    def compared_groups(self) -> dict["Part", int]:
        """Return how many duplicate groups an excess compares: groups of both sides take no part."""
        shared = self.control_check.overlapping_groups if self.control_check else 0
        training = self.training_groups - shared
        return {"training": training, "control": training if self.same_groups else self.held_out_groups - shared}


Credit = Annotated[int, Field(ge=0, lt=2**53)] | Annotated[float, Field(ge=0, lt=2**53, multiple_of=0.5)]
"""Candidates that a group owns: a whole number, or half of one more where a candidate is tied."""


_Quarters = Annotated[float, Field(ge=0, lt=2**53, multiple_of=0.25)]
Counts = tuple[_Quarters, _Quarters, _Quarters]


class Hits(Frozen):
    """What one seed hit in the headline measure's closest band, by candidate and by duplicate group.

    Duplicate groups on both sides take no part, as in the excess. With `owned`, a candidate counts on the side whose
    group is nearer, on a tie half on either: then both of its bits are set.
    """

    seed: int = Field(ge=0, description="run seed")
    training: str = Field(description="one bit per candidate: its best training match is in the band (see `pack`)")
    control: str = Field(description="the same of the control: on held-out images, or of a reference model")
    training_groups: dict[str, Credit] = Field(description="candidates by keyed hash of the training group they hit")
    control_groups: dict[str, Credit] = Field(description="the same of the control")
    owned: bool = Field(False, description="whether a candidate counts on the side that owns it, as since version 4")
    classes: dict[str, int] = Field({}, description="class of the named groups that are not of the first one")


class Cell(Frozen):
    """Duplicate groups that own about as many candidates."""

    least: int = Field(ge=1, description="candidates of the group with the fewest, halves rounded up")
    most: int = Field(ge=1, description="candidates of the group with the most, likewise")
    groups: int = Field(ge=FEWEST, description="how many groups")
    candidates: float = Field(gt=0, description="candidates that they own together")


class Shares(Frozen):
    """What one preparation hit in one of the nested bands, of a pair whose images are not public.

    No statement is about any one image or candidate.
    """

    seed: int = Field(ge=0, description="number of the preparation")
    band: str = Field(max_length=64, description="name of the band")
    training: float = Field(ge=0, description="candidates that groups of training images own, a tie counts 1/2")
    control: float = Field(ge=0, description="the same of the control")
    training_groups: list[Cell] = Field(
        description="training groups by how many candidates they own, cells of fewer than five groups put together"
    )
    control_groups: list[Cell] = Field(description="the same of the control")


class PairedCounts(Frozen):
    """How candidates of one number fared under two attacks of one run, in one of the nested bands.

    Rows are what the training side, the control and nobody own under the record's attack, columns the same under the
    other one. A candidate that is tied counts half on either side, so a cell is a multiple of 1/4.
    """

    seed: int = Field(ge=0, description="number of the preparation")
    band: str = Field(max_length=64, description="name of the band")
    attack: str = Field(max_length=64, description="name of the other attack")
    scores: str = Field(pattern=r"^[0-9a-f]{64}$", description="`hashes.scores` of its preparation of this number")
    counts: tuple[Counts, Counts, Counts] = Field(
        description="candidates: owned by training, by the control, by nobody"
    )


class Hashes(Frozen):
    """SHA-256 of what the record rests on, so that it can be challenged."""

    manifest: str = Field(pattern=r"^[0-9a-f]{64}$", description="of manifest.json")
    metrics: str = Field(pattern=r"^[0-9a-f]{64}$", description="of metrics.json")
    scores: dict[str, str] = Field(description="by seed, of the names and hashes of all score files of the unit")
    state: dict[str, str] = Field(description="by seed, of the attack's state file")
    ledger: dict[str, str] = Field(
        {}, description="by seed, of the file that says what each shard cost; empty in records of before version 4"
    )


class Made(Frozen):
    """With what the run was made: hardware class, versions, seconds. Nothing that names a machine."""

    device: str = Field(max_length=16, description="cpu, cuda or mps")
    accelerator: str | None = Field(description="model name of the accelerator")
    processor: str = Field(max_length=128, description="model name of the processor")
    system: str = Field(max_length=64, description="operating system and architecture")
    cores: int = Field(ge=1, description="processor cores")
    threads: int = Field(ge=1, description="threads of torch")
    micro_batch: int = Field(ge=1, description="rows that the denoiser sees at a time")
    versions: dict[str, str] = Field(description="Python and every package that can move a number")
    mixed: bool = Field(description="the run was continued under other versions or hardware")
    prepare_seconds: float = Field(ge=0, description="wall time of `prepare`, all seeds")
    generate_seconds: float = Field(ge=0, description="wall time of `generate`, all seeds")
    probe_share_off: float = Field(ge=0, le=1, description="largest share of values that another batch size changed")


class Quality(Frozen):
    """Are the candidates images of the right kind? Means over the preparations, pixels as features.

    What is None belongs to models with an autoencoder, or to attacks that send captions, of which this is neither.
    """

    frechet: float = Field(ge=0, description="Frechet distance of the candidates to images outside of the training set")
    frechet_of_training: float = Field(ge=0, description="the same of the training images themselves")
    precision: float = Field(ge=0, le=1, description="share of candidates on the manifold of real images")
    recall: float = Field(ge=0, le=1, description="share of real images on the manifold of the candidates")
    frechet_latents: float | None = Field(
        None, ge=0, le=1e6, description="`frechet` with the latents of the model's autoencoder as features"
    )
    frechet_latents_of_training: float | None = Field(
        None, ge=0, le=1e6, description="`frechet_of_training` in these latents"
    )
    caption_accuracy: float | None = Field(
        None, ge=0, le=1, description="share of images, made from a training caption, that show it"
    )
    held_out_caption_accuracy: float | None = Field(
        None, ge=0, le=1, description="the same of captions of held-out images"
    )


OF_TEXT = ("frechet_latents", "frechet_latents_of_training", "caption_accuracy", "held_out_caption_accuracy")
"""What `Quality` says of text-to-image models, since version 6."""


class TuningPoint(Frozen):
    """Values of the settings and what they found on a shadow victim."""

    values: dict[str, Any] = Field(description="values of the settings that were tried")
    excess: Estimate = Field(description="excess on the shadow victim, or its AMS where the pair has no control")


class Tuning(Frozen):
    """Where the settings come from: every point that was tried on a shadow victim."""

    measure: str = Field(max_length=128, description="id of the measure")
    candidates: int = Field(ge=1, description="candidates per point")
    points: list[TuningPoint] = Field(min_length=1, max_length=1000, description="in the order of the grid")


class Record(SignedRecord):
    """One claim, complete."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    track: Track = Field(
        description="extraction: an attack made the candidates; images: they were given; never ranked together"
    )
    claim: Claim = Field(description="the method")
    victim: Victim = Field(description="the pair")
    protocol: Protocol = Field(description="the rules of the run, whole")
    candidates: int = Field(ge=1, description="N_G, under each seed")
    seeds: list[int] = Field(min_length=1, description="run seeds; each is one full `prepare`")
    measure: str = Field(max_length=128, description="id of the headline measure")
    band: str = Field(max_length=64, description="its closest band, by which records are ranked")
    excess: Estimate = Field(description="AMS minus that of the control, all seeds together; without one, AMS")
    results: list[Result] = Field(description="every rate, by seed and measure")
    costs: list[Cost] = Field(description="logical work by seed")
    hits: list[Hits] = Field(description="what was hit, by seed; empty where the images are not public")
    shares: list[Shares] = Field(
        [], description="what was hit, by preparation and nested band; empty where the images are public"
    )
    paired: list[PairedCounts] = Field(
        [],
        description="by preparation, nested band and other attack of the same run; empty where the images are public, "
        "whose `hits` say more",
    )
    reach: list[Reach] = Field(
        [], description="what each band of the headline measure can see; empty in records of before version 5"
    )
    own_images: list[OwnImages] = Field(
        [], description="by seed, how often a caption's own image is nearest; empty where no captions are replayed"
    )
    caption_flags: list[CaptionFlags] = Field(
        [], description="by seed, captions called memorised; empty of attacks that call none so"
    )
    exposures: list[Exposure] = Field([], description="by seed, exposure of canaries; empty where none are replayed")
    nonce: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the nonce that makes the seeds, of images that are not public; seeds then number the "
        "preparations",
    )
    key_id: str = Field(
        pattern=r"^[0-9a-f]{16}$", description="names the key of the hashes; equal: groups can be paired"
    )
    hashes: Hashes = Field(description="what the record rests on")
    made: Made = Field(description="hardware class, versions, seconds")
    quality: Quality | None = Field(
        None, description="of the candidates; None where images are too large for it, and in older records"
    )
    tuning: Tuning | None = Field(None, description="how the settings were tuned; None where that is not told")
    command: str = Field(max_length=4000, description="the command that makes the run again")

    @property
    def claims_excess(self) -> bool:
        """Whether the control is a fair one, so that the excess means something."""
        return fair_control(self.victim.control, self.victim.control_check)

    @property
    def board(self) -> BoardKind:
        """The board on which it stands."""
        return "defences" if self.claim.defences else "attacks"

    def headline(self, seed: int) -> Result:
        """Return the headline measure's result under one seed."""
        return next(found for found in self.results if (found.seed, found.measure) == (seed, self.measure))

    def file(self, records: Path, name: str = "") -> Path:
        """Return where the record stands below a folder of records.

        `name` is the one that `id` gives, unless the file was written under an older schema: then that of its bytes.
        """
        protocol = self.protocol.version.replace("/", "-")
        return records / protocol / self.victim.name / f"{self.claim.attack}-{name or self.id}.json"


def command(
    pair: str,
    attack: Mapping[str, Mapping[str, Any]],
    defences: Mapping[str, Mapping[str, Any]],
    candidates: int,
    seeds: Sequence[int],
    measures: Sequence[str],
    secret_seeds: int = 0,
) -> str:
    """Return the command that makes a run again, every setting spelled out; settings stand by attack and defence."""
    # The others are part of the victim.
    around = {name: own for name, own in defences.items() if not name.startswith(IN_TRAINING)}
    parts = ["sidebench", "run", pair, *_options("--attack", attack), "--candidates", str(candidates)]
    parts += ["--secret-seeds", str(secret_seeds)] if secret_seeds else []
    parts += [*_options("--seed", seeds), *_options("--measure", measures), *_options("--defence", around)]
    for owner, settings in {**attack, **around}.items():
        parts += _options("--set", (f"{owner}.{key}={json.dumps(settings[key])}" for key in sorted(settings)))
    return shlex.join(parts)


def _options(option: str, values: Iterable[Any]) -> list[str]:
    return [part for value in values for part in (option, str(value))]


# ---- What was hit -----------------------------------------------------------------------------------


def pack(hits: np.ndarray) -> str:
    """Return booleans as text: bits, first candidate in the highest, deflated, in base64."""
    return base64.b64encode(zlib.compress(np.packbits(hits).tobytes(), 9)).decode()


def unpack(text: str, candidates: int, name: str) -> np.ndarray:
    """Return the booleans that `pack` packed.

    Raises:
        BadRecord: the text does not hold exactly one bit per candidate, or something beside these.
    """
    size = -(-candidates // 8)
    try:
        packed = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj()
        content = stream.decompress(packed, size + 1)
    except (ValueError, zlib.error):
        raise BadRecord(f"{name}: is not packed bits") from None
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(bool)
    if len(content) != size or not stream.eof or bits[candidates:].any():
        raise BadRecord(f"{name}: holds another number of bits than the {candidates} candidates")
    if stream.unused_data or base64.b64encode(packed).decode() != text or not _as_packed(packed, content):
        raise BadRecord(f"{name}: is not written as bits are packed, and could hold something else")
    return bits[:candidates]


def _as_packed(packed: bytes, content: bytes) -> bool:
    """Return whether bytes are deflated as `pack` does: at its level, with no room for what is not read.

    Other builds of zlib deflate the same content to a few bytes more or less, so an eighth and 16 bytes are let pass.
    """
    ours = zlib.compress(content, 9)
    return packed[:2] == ours[:2] and len(packed) <= len(ours) * 9 // 8 + 16


def pooled_hits(records: Sequence[Record], seeds: Sequence[int]) -> list[AttackHits]:
    """Return each record's hits under these seeds together, groups in one order for all records.

    Records under one key share their groups' names, so credits line up group by group.

    Raises:
        BadRecord: packed bits are of another number of candidates.
    """
    chosen = [[next(hits for hits in record.hits if hits.seed == seed) for seed in seeds] for record in records]
    victim = records[0].victim
    names = {part: {n for found in chosen for hits in found for n in getattr(hits, f"{part}_groups")} for part in PARTS}
    if victim.same_groups:
        names = dict.fromkeys(PARTS, names["training"] | names["control"])
    places = {part: {name: place for place, name in enumerate(sorted(names[part]))} for part in PARTS}
    return [
        pooled([attack_hits(record, hits, places) for hits in parts])
        for record, parts in zip(records, chosen, strict=True)
    ]


def attack_hits(record: Record, hits: Hits, places: Mapping[Part, Mapping[str, int]]) -> AttackHits:
    """Return what one seed of a record hit, groups in the order of `places`: the place of each named group, from 0.

    A group that no record hit has no name and stands as a zero at the end.

    Raises:
        BadRecord: packed bits are of another number of candidates.
    """
    totals = record.victim.compared_groups()
    ours, theirs = (unpack(getattr(hits, part), record.candidates, f"hits.{part}") for part in PARTS)
    share = np.where(ours & theirs, 0.5, 1.0) if hits.owned else np.ones(record.candidates)
    return AttackHits(
        ours * share,
        theirs * share,
        _credits(hits.training_groups, places["training"], totals["training"]),
        _credits(hits.control_groups, places["control"], totals["control"]),
        same_groups=record.victim.same_groups,
        strata=_strata(record, places),
    )


def _credits(named: Mapping[str, float], places: Mapping[str, int], groups: int) -> np.ndarray:
    """Return how often each group was hit, the named ones first, `groups` in all."""
    credits = np.zeros(max(groups, len(places)))
    credits[[places[name] for name in named]] = list(named.values())
    return credits


def _strata(record: Record, places: Mapping[Part, Mapping[str, int]]) -> Strata | None:
    """Return the classes of the groups in the order of `places`; those without a name are what is left of each."""
    if len(record.victim.classes) < 2:
        return None
    known = {name: number for hits in record.hits for name, number in hits.classes.items()}
    sides = []
    for side, part in enumerate(PARTS):
        left = [int(sizes[side]) for sizes in record.victim.classes]
        order = []
        for name in sorted(places[part], key=places[part].__getitem__):
            number = known.get(name, 0)
            left[number] -= 1
            order.append(number)
        if min(left) < 0:
            raise BadRecord(f"hits.classes: more {part} groups are named than victim.classes has")
        order += [number for number, more in enumerate(left) for _ in range(more)]
        sides.append(np.array(order, dtype=np.int64))
    return Strata(sides[0], sides[1])
