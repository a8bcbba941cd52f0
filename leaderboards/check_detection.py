"""What a record of detectors must fulfil: complete parts, a pair that exists, figures that follow from its ranks."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..benchmark.errors import BadRecord, SidebenchError
from ..benchmark.registry import find, make_measure, names, ships
from ..benchmark.results.detection import DetectorUsed, counted
from . import owners
from .badge import CheckedDetection
from .check_fields import check_plugin_settings, secrets_in, victim
from .check_numbers import Found
from .detection_record import SCORED, DetectionRecord, unpacked
from .detection_record import command as command_of
from .figures_again import differences

_PACKED = ("labels", "families", "ranks")


def texts(record: DetectionRecord) -> Found:
    """No text may hold a path, an address, a token or an image; in packed numbers any text may occur."""
    content = record.model_dump(mode="json", by_alias=True)
    yield from secrets_in({key: value for key, value in content.items() if key not in _PACKED})


def command(record: DetectionRecord) -> Found:
    """The command is that of the settings."""
    wanted = command_of(record.victim.name, record.detectors, record.replay, record.seed, record.negatives)
    if record.command != wanted:
        yield "command", "is not the command of these settings"


def numbers(record: DetectionRecord) -> Found:
    """Yield (field, message) of every figure that does not follow from ranks, labels and families."""
    try:
        scored = unpacked(record)
    except BadRecord as error:
        field, _, message = str(error).partition(": ")
        yield field, message
        return
    known = counted(scored.labels, scored.families)
    for label in SCORED:
        if record.counts[label] != known[label]:
            yield f"counts.{label}", "is not what labels and families say"
            return
    again = [each.model_dump(mode="json") for each in scored.figures(record.seed)]
    said = [each.model_dump(mode="json") for each in record.against]
    for key, ours, theirs in differences({"against": said}, {"against": again}):
        yield key, f"says {ours}, the ranks say {theirs}"
        return


def claimed(record: DetectionRecord) -> str:
    """Return what two records of one submitter may not share."""
    kept = {"victim", "prompts_sha256", "replay", "seed"}
    shared = record.model_dump(mode="json", include=kept, exclude={"victim": {"sources"}, "replay": {"nfe"}})
    methods = [_method(used) for used in record.detectors]
    return json.dumps([owners.normal(record.submitter), shared, methods], sort_keys=True)


def _method(used: DetectorUsed) -> dict[str, Any]:
    return used.model_dump(mode="json", include={"detector", "version", "settings", "code"})


def counts(record: DetectionRecord) -> Found:
    """Prompts are no more than the pair has images to take them from, and each family holds one of them at least."""
    for label, count in record.counts.items():
        if not (count.families <= count.prompts and bool(count.families) == bool(count.prompts)):
            yield f"counts.{label}", f"{count.families:,} families cannot hold {count.prompts:,} prompts"
    captions, images = _captions(record), record.victim.training_images
    if captions > images:
        yield "counts", f"{captions:,} captions of training images cannot be of {images:,} images"
    never = record.counts["never seen"].prompts
    if record.negatives > never:
        yield "negatives", f"are {record.negatives:,}, and {never:,} prompts were never seen"


def _captions(record: DetectionRecord) -> int:
    """Return how many captions of training images were labelled, which takes no image twice."""
    return sum(record.counts[label].prompts for label in (*SCORED[:2], "ambiguous"))


def what_may_stand(record: DetectionRecord) -> Found:
    """The images are public, and labels came from as many images as are said."""
    if not record.victim.public:
        yield "victim.public", "is false: a record of detectors says of each caption whether it is memorised"
    if record.victim.family != "text":
        yield "victim.family", f"is {record.victim.family}: detectors score prompts of a text-to-image model"
    replay, captions = record.replay, _captions(record)
    if replay.images < 1 or replay.steps < 1:
        yield "replay", "makes no image"
    elif replay.nfe < replay.images * replay.steps * captions:
        yield "replay.nfe", f"is too few for {replay.images} images of {captions:,} captions in {replay.steps} steps"
    if replay.guidance_scale < 0:
        yield "replay.guidance_scale", f"is {replay.guidance_scale:g}, and cannot be below 0"
    try:
        make_measure(replay.measure)
    except SidebenchError as error:
        yield "replay.measure", str(error)


def detectors(record: DetectionRecord) -> Found:
    """Each detector stands once, is of known code, and one that is known here has the settings that are said."""
    order = [used.detector for used in record.detectors]
    if sorted(set(order)) != order:
        yield "detectors", "must be in the order of their names, each once"
    for number, used in enumerate(record.detectors):
        field, known = f"detectors.{number}", used.detector in names("detector")
        if used.prompts != record.prompts:
            yield f"{field}.prompts", f"is {used.prompts:,}, and {record.prompts:,} were scored"
        own = known and ships("detector", used.detector)
        if used.nfe < 0 or used.flops < 0:
            yield f"{field}.nfe", "cannot be below 0"
        elif own and used.nfe < used.prompts:
            yield f"{field}.nfe", f"is {used.nfe:,}, and {used.detector} calls the denoiser for each prompt"
        if used.version < 1:
            yield f"{field}.version", f"is {used.version}: versions begin at 1"
        if own != (used.code.get("package") == "sidebench"):
            yield f"{field}.code", "ships not with sidebench" if not own else "is not sidebench's, and it ships with it"
        if not own and "sha256" not in used.code:
            yield f"{field}.code", "does not say of which package or file it is"
        if not known:
            continue
        plugin = find("detector", used.detector)
        if used.version > plugin.version:
            yield f"{field}.version", f"is {used.version}, and it is at {plugin.version} here; update sidebench"
            continue
        later = plugin.later_settings if used.version < plugin.version else frozenset()
        yield from check_plugin_settings(plugin, used.settings, f"{field}.settings", later)


def badge(record: DetectionRecord, found: CheckedDetection) -> Found:
    """A badge counts captions of training images, other prompts and detectors as the record has them."""
    captions = _captions(record)
    if found.replayed > captions or found.checked - found.replayed > record.labelled - captions:
        yield (
            "replayed",
            f"is {found.replayed} of {found.checked}, the record has {captions} captions of training images",
        )
    if strange := sorted(found.differ.keys() - {"label", *record.ranks}):
        yield "differ", f"names {strange[0]}, which is no detector of the record"


FIRST: Sequence[Callable[[DetectionRecord], Found]] = (texts, victim, counts, what_may_stand, detectors, command)
THEN: Sequence[Callable[[DetectionRecord], Found]] = (numbers,)
