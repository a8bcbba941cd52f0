"""What a record must fulfil before its numbers are looked at: no secrets, complete parts, a pair that exists.

Each rule yields (field, message) for what it finds.
"""

import re
from typing import Any

from ..benchmark.data.pair import IN_TRAINING, Pair, load_pair, pair_names
from ..benchmark.errors import SidebenchError
from ..benchmark.measures.hits import all_bands
from ..benchmark.measures.shard_scores import SIDES
from ..benchmark.protocol import VERSION
from ..benchmark.registry import Kind, check_settings, find, make_measure, names, ships, split_ablation
from .aggregates import command_of
from .check_numbers import Found
from .detection_record import AnyRecord
from .record import Record

_ADDRESS = "an address"
_MAY_HOLD_ADDRESS = re.compile(r"victim\.made_by|claim\.code\..*\.address")

_SECRETS = {
    "an absolute path": re.compile(r"(?:^|[\s'\"=:,(])(?:/[\w.~-]+){2,}|\b[A-Za-z]:\\|\\\\\w"),
    _ADDRESS: re.compile(r"\w://|\b\w[\w.-]*@[\w-]+\.\w"),
    "a token": re.compile(r"\b(?:hf|ghp|glpat|sk|xox[bp])[_-]\w{8,}"),
    "an image": re.compile(r"data:|iVBORw0KGgo|/9j/4"),
    "a control character": re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"),
}
"""What no text of a record may hold."""


def texts(record: Record) -> Found:
    """No text may hold a path, an address, a token or an image."""
    content = record.model_dump(mode="json", by_alias=True)
    for hits in content["hits"]:  # packed bits: any text may occur in base64
        del hits["training"], hits["control"]
    yield from secrets_in(content)


def secrets_in(content: Any) -> Found:
    """No text in a JSON value may hold a path, an address, a token or an image."""

    def walk(value: Any, field: str) -> Found:
        if isinstance(value, dict):
            for key, entry in value.items():
                yield from walk(str(key), field)
                yield from walk(entry, f"{field}.{key}" if field else str(key))
        elif isinstance(value, list):
            for position, entry in enumerate(value):
                yield from walk(entry, f"{field}.{position}")
        elif isinstance(value, str):
            for what, pattern in _SECRETS.items():
                if pattern.search(value) and not (what == _ADDRESS and _MAY_HOLD_ADDRESS.fullmatch(field)):
                    yield field, f"holds {what}, which no record may"

    yield from walk(content, "")


def seeds(record: Record) -> Found:
    """Every part has one entry per seed, in order, of the claim's attack."""
    seeds = record.seeds
    if sorted(set(seeds)) != seeds or seeds[0] < 0:
        yield "seeds", "must be in order, each once, none negative"
    stored = {"costs": [cost.seed for cost in record.costs]}
    if record.victim.public:
        stored["hits"] = [hits.seed for hits in record.hits]
    for field, found in stored.items():
        if found != seeds:
            yield field, "must have one entry per seed, in order"
    for field, hashes in (("hashes.scores", record.hashes.scores), ("hashes.state", record.hashes.state)):
        if set(hashes) != {str(seed) for seed in seeds}:
            yield field, "must have one hash per seed"
        if not all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values()):
            yield field, "holds something that is no SHA-256"
    attacks = {"results": {found.attack for found in record.results}, "costs": {cost.attack for cost in record.costs}}
    for field, own in attacks.items():
        if own != {record.claim.attack}:
            yield field, f"are of {', '.join(sorted(own))}, the claim of {record.claim.attack}"


def privacy(record: Record) -> Found:
    """A record of images that are not public makes no statement about any one of them."""
    if record.victim.public:
        if record.shares or record.paired or record.nonce is not None:
            yield "shares", "belong to a record of images that are not public"
        return
    if record.victim.name in pair_names() and load_pair(record.victim.name).public:
        yield "victim.public", f"is not that of the pair {record.victim.name}"
    if record.hits:
        yield "hits", "say which candidates are training images, and the images are not public"
    if record.nonce is None:
        yield "nonce", "is missing: whoever has the model can make the candidates of seeds that are told"
    if record.seeds != list(range(len(record.seeds))):
        yield "seeds", "number the preparations from 0 where the images are not public"


def track(record: Record) -> Found:
    """Images that were given are in a track of their own, and what rests on captions is of the claim's attack."""
    if (record.track == "images") != (record.victim.family == "images"):
        yield "track", f"cannot be {record.track} of a victim of family {record.victim.family}"
    for field in ("own_images", "caption_flags", "exposures"):
        found = getattr(record, field)
        if any(each.attack != record.claim.attack for each in found):
            yield field, f"are not all of {record.claim.attack}"
        numbers = [each.seed for each in found]
        if numbers and numbers != record.seeds:
            yield field, "must have one entry per seed, in order, or none"
    if any(reach.measure != record.measure for reach in record.reach):
        yield "reach", f"is not of {record.measure} alone"


def claim(record: Record) -> Found:
    """Attack and defences that are known here have the access and the settings that are claimed for them."""
    claimed = record.claim
    named: list[tuple[Kind, str, dict[str, Any], str]] = []
    named.append(("attack", claimed.attack, claimed.settings, "claim.settings"))
    for name, settings in claimed.defences.items():
        if not name.startswith(IN_TRAINING):
            named.append(("defence", name, settings, f"claim.defences.{name}"))
    for kind, name, settings, field in named:
        known = split_ablation(name)[0] if kind == "attack" else name
        if known not in names(kind):
            if not {"sha256"} < claimed.code.get(name, {}).keys():
                yield "claim.code", f"does not say of which package or file {kind} {name} is; it does not ship"
            continue
        if ships(kind, known) and name in claimed.code:
            yield "claim.code", f"says that {name} is of another package, and it ships with sidebench"
        plugin = find(kind, name)
        if kind == "attack" and claimed.access != plugin.access:
            yield "claim.access", f"is {claimed.access}, and {name} is an attack with access {plugin.access}"
        later: frozenset[str] = frozenset()
        if kind == "attack" and claimed.version > plugin.version:
            yield "claim.version", f"is {claimed.version}, and {name} is at {plugin.version} here; update sidebench"
        if kind == "attack" and claimed.version < plugin.version:
            later = plugin.later_settings
        # Under an older protocol an attack may have had fewer settings, whichever.
        yield from check_plugin_settings(plugin, settings, field, later if record.protocol.version == VERSION else None)


def check_plugin_settings(plugin: Any, settings: dict[str, Any], field: str, later: frozenset[str] | None) -> Found:
    """Settings are those that there are; all must be said but the `later` ones, or none with None."""
    try:
        whole = check_settings(plugin.Settings, settings, plugin.name).model_dump(mode="json")
    except SidebenchError as error:
        yield field, str(error)
        return
    if later is not None and (lacking := sorted(whole.keys() - settings.keys() - later)):
        yield field, f"does not say {lacking[0]}"


def results(record: Record) -> Found:
    """Results are complete, in the run's order, by measures and bands that exist."""
    measures = _measures(record)
    if record.measure not in measures:
        yield "measure", "has no result"
    elif measures[0] != record.measure:
        yield "measure", f"the first result is of {measures[0]}: the headline measure comes first"
    wanted = [(seed, measure) for seed in record.seeds for measure in measures]
    if [(result.seed, result.measure) for result in record.results] != wanted:
        yield "results", "must have one entry per seed and measure, in the run's order"
    for number, result in enumerate(record.results):
        field = f"results.{number}"
        try:
            measure = make_measure(result.measure)
        except SidebenchError as error:
            yield f"{field}.measure", str(error)
            continue
        bands = all_bands(measure)
        if [(band.band, band.low, band.high) for band in result.bands] != [tuple(vars(b).values()) for b in bands]:
            yield f"{field}.bands", f"are not the bands of {measure.id}"
        if (result.richness is not None) != (result.measure == record.measure and record.victim.public):
            yield f"{field}.richness", "belongs to the headline measure alone, of images that are public"
        if result.measure == record.measure and (not bands or record.band != bands[0].name):
            yield "band", f"is not the closest band of {measure.id}"


def victim(record: AnyRecord) -> Found:
    """Images, groups and hashes fit each other, and the shipped pair of that name."""
    victim = record.victim
    for side in SIDES:
        images, groups = getattr(victim, f"{side}_images"), getattr(victim, f"{side}_groups")
        if groups > images or (images and not groups):
            yield f"victim.{side}_groups", f"{groups} groups cannot hold {images} images"
    if not all(re.fullmatch("[0-9a-f]{64}", value) for value in victim.model_sha256.values()):
        yield "victim.model_sha256", "holds something that is no SHA-256"
    if any(name.startswith("/") or ".." in name.split("/") for name in victim.model_sha256):
        yield "victim.model_sha256", "names a file outside the model's folder"
    if victim.same_groups != bool(victim.reference_sha256):
        yield "victim.reference_sha256", "is there exactly where the control is a reference model"
    if (victim.control in ("none", "reference-model")) != (victim.held_out_images == 0):
        yield "victim.held_out_images", f"does not fit the control {victim.control}"
    if victim.name in pair_names():
        yield from _shipped(record, load_pair(victim.name))
    elif victim.worked_example:
        yield "victim.worked_example", "is said of a pair that does not ship with sidebench"


def control(record: Record) -> Found:
    """It is said whether both sides are distinguishable where there are two, and what is said follows from an AUC."""
    victim = record.victim
    check = victim.control_check
    if (check is None) != (victim.held_out_images == 0):
        yield "victim.control_check", "is there exactly where held-out images are"
    if check is not None:
        if not 0 <= check.low <= check.auc <= check.high <= 1:
            yield "victim.control_check", "the AUC must lie in its interval, and that in [0, 1]"
        if check.overlapping_groups > min(victim.training_groups, victim.held_out_groups):
            yield "victim.control_check.overlapping_groups", "cannot be more than a side's groups"
        if check.told_apart != (not check.low <= 0.5 <= check.high):
            yield "victim.control_check.told_apart", "does not follow from the AUC's interval"


def _shipped(record: AnyRecord, pair: Pair) -> Found:
    """Compare the victim with the shipped pair of its name, where the revision is the same."""
    victim = record.victim
    if victim.revision > pair.revision:
        yield "victim.revision", f"is {victim.revision}, the shipped pair's {pair.revision}; update sidebench"
    if victim.revision != pair.revision:
        return
    if victim.family == "images":
        yield "victim.family", f"is images, and {pair.name} is a model: write a pair file whose model is images:PATH"
        return
    wanted: dict[str, Any] = {
        "identity": pair.identity(),
        "control": pair.control,
        "family": pair.model.family,
        "worked_example": pair.model.location.startswith("zoo:"),
    }
    for part, source in victim.sources.items():
        own = {"model": pair.model.repo, "data": pair.data.repo}.get(part)
        if own is not None and source.repo != own:
            yield f"victim.sources.{part}", f"is {source.repo}, the pair {pair.name} takes {own}"
    if any(victim.model_sha256.get(name) != digest for name, digest in pair.model.sha256.items()):
        yield "victim.model_sha256", f"is not that of the pair {pair.name}: attack the pair's own model"
    if pair.data.split is not None:
        wanted |= {"training_images": pair.data.split.training, "held_out_images": pair.data.split.held_out}
    if pair.data.sha256:
        wanted["data_sha256"] = pair.data.sha256
    for key, value in wanted.items():
        if getattr(victim, key) != value:
            yield f"victim.{key}", f"is not that of the pair {pair.name}, revision {pair.revision}"


def command(record: Record) -> Found:
    """The command is that of the settings."""
    wanted = command_of(record)
    if record.command != wanted:
        yield "command", "is not the command of these settings"


def tuning(record: Record) -> Found:
    """Every point of a tuning gives values to the same settings, which the attack has."""
    points = record.tuning.points if record.tuning else []
    for number, point in enumerate(points):
        if set(point.values) != set(points[0].values) or not set(point.values) <= set(record.claim.settings):
            yield f"tuning.points.{number}.values", "must be settings of the attack, the same at every point"
        if not -1 <= point.excess.low <= point.excess.value <= point.excess.high <= 1:
            yield f"tuning.points.{number}.excess", "must lie in its interval, and that in [-1, 1]"


def _measures(record: Record) -> list[str]:
    return list(dict.fromkeys(result.measure for result in record.results))
