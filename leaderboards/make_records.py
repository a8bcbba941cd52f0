"""Make records from a finished run folder: one per attack, over all of its seeds."""

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..benchmark.contracts import Band, Measure
from ..benchmark.data.pair import load_pair, pair_names
from ..benchmark.data.references import shared_groups
from ..benchmark.errors import BadInput, BadRecord, CorruptRun, UnknownName, first_problem
from ..benchmark.files import lock_of, read_json, read_table, write_text
from ..benchmark.measures.hits import nested_bands
from ..benchmark.protocol import CONFIDENCE, Protocol
from ..benchmark.registry import make_measure
from ..benchmark.results.keyed_names import held_out_group, keyed_hash, run_key, training_group
from ..benchmark.results.rates import attack_hits
from ..benchmark.results.run_folder import LOCK_FILE, RunFolder, asked_candidates, believing, rules_of, unit_name
from ..benchmark.results.schema import Estimate, Metrics, Result, load_metrics
from ..benchmark.results.score_files import read_all_scores
from ..benchmark.results.secret_seeds import numbers_of
from ..benchmark.results.shards import named
from ..benchmark.results.unit_scores import Groups, UnitScores, sides_hash, stored_groups
from ..benchmark.stats.comparison import AttackHits, excess_of, pooled
from ..benchmark.stats.owned import Strata
from . import owners
from .aggregates import aggregated, paired_counts, shares_of
from .check import check_record, claims_same
from .detection_record import AnyRecord
from .figures_again import check_figures
from .read_records import read_any, record_files
from .record import SCHEMA, Claim, Hashes, Hits, Made, PairedCounts, Quality, Record, Victim, command, pack
from .record_tuning import with_tunings

LONGEST_WAIT = 60.0
"""Seconds that `add_records` waits for another process to be done with a folder of records."""


@believing
def make_records(
    folder: RunFolder, submitter: str, attacks: Sequence[str] = (), today: date | None = None
) -> list[Record]:
    """Return one record per attack of a finished run (or of those named), over all of its seeds.

    Raises:
        BadInput: the run has no results, no fixed bands, or attacks another model than a pair's.
        BadRecord: a figure of metrics.json is not what the run's scores say.
        UnknownName: the run has no such attack.
    """
    metrics, manifest = load_metrics(folder), read_json(folder.manifest_file)
    if manifest["identity"]["model"].get("live"):
        raise BadInput(f"{folder.path.name} attacked an object of a notebook, which nobody can reproduce: no record")
    found = list(dict.fromkeys(cost.attack for cost in metrics.costs))
    for name in attacks:
        if name not in found:
            raise UnknownName("attack of this run", name, found)
    check_figures(folder, metrics)
    measure = make_measure(metrics.results[0].measure)
    if not measure.bands:
        raise BadInput(f"{measure.id} has no fixed bands, so there is nothing to rank: put a measure with bands first")
    try:
        return [
            _make(folder, metrics, manifest, measure, name, submitter, today or datetime.now(UTC).date())
            for name in attacks or found
        ]
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(f"{folder.path.name} makes no record")) from None


def add_records(
    folder: RunFolder,
    submitter: str,
    attacks: Sequence[str],
    records: Path,
    tunings: Sequence[Path] = (),
    key_file: Path | None = None,
) -> list[Path]:
    """Make a run's records, check them beside those that are there, write them and return their files.

    Each of `tunings` is a curve of `sidebench tune`, for the record of its attack. They are signed with the key in
    `key_file`, which is made where there is none; without a file they are listed as the maintainers' (`owners.claim`).

    Raises:
        BadRecord: a record would be refused; none is written then.
        BadInput: a curve is of none of these attacks, or of another pair; the name is somebody else's, or the key
            cannot be used.
    """
    made = with_tunings(make_records(folder, submitter, attacks), tunings)
    for record in made:
        if found := check_record(record):
            field, message = found[0]
            raise BadRecord(f"{record.claim.attack}, {field}: {message}")
    with held(records):
        stored = [(file, read_any(file)) for file in record_files(records)]
        for record in made:
            if same := next((file for file, other in stored if claims_same(record, other)), None):
                raise BadRecord(
                    f"{record.claim.attack}, claim: is claimed in {same.name} already, by the same submitter"
                )
        return [write_record(record, records) for record in owners.claim(made, records, key_file)]


@contextmanager
def held(records: Path) -> Iterator[None]:
    """Hold a folder of records for this process alone: of two that enter a name at once, one entry would be lost.

    Raises:
        BadInput: the folder cannot be written, or another process has held it for a minute.
    """
    from filelock import Timeout

    try:
        records.mkdir(parents=True, exist_ok=True)
        lock = lock_of(records / LOCK_FILE)
        lock.acquire(timeout=LONGEST_WAIT)
    except Timeout:
        raise BadInput(f"another process is writing to {records}; try again when it has ended") from None
    except OSError as error:
        raise BadInput(f"cannot write to {records}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def write_record(record: AnyRecord, records: Path) -> Path:
    """Write a record below a folder of records and return its file."""
    file = record.file(records)
    text = record.text()
    write_text(file, text)
    return file


def _make(
    folder: RunFolder,
    metrics: Metrics,
    manifest: Mapping[str, Any],
    measure: Measure,
    attack: str,
    submitter: str,
    today: date,
) -> Record:
    identity, key = manifest["identity"], run_key(folder)
    public = _is_public(manifest, metrics.pair)
    costs = [cost for cost in metrics.costs if cost.attack == attack]
    nonce, numbers = ("", {}) if public else numbers_of(folder, [cost.seed for cost in costs])
    costs = [cost for cost in costs if public or cost.seed in numbers]
    seeds = [cost.seed for cost in costs]
    units = {seed: unit_name(attack, seed) for seed in seeds}
    groups = stored_groups(folder)
    bands = nested_bands(measure)
    every = {seed: unit_hits(folder, unit, measure, groups, bands) for seed, unit in units.items()}
    hits = {seed: found[0] for seed, found in every.items()}
    excess = excess_of(pooled(list(hits.values())), CONFIDENCE)
    unit = manifest["units"][units[seeds[0]]]
    made = Record(
        schema=SCHEMA,
        submitter=submitter,
        submitted=today,
        track="images" if identity["model"]["family"] == "images" else "extraction",
        claim=Claim(
            attack=attack,
            version=unit.get("version", 1),
            access=unit["access"],
            settings=unit["settings"],
            defences=identity["defences"],
            code=_code(attack, manifest, unit),
        ),
        victim=_victim(folder, metrics, manifest, hits[seeds[0]]),
        protocol=Protocol(**rules_of(manifest)),
        candidates=asked_candidates(manifest),
        seeds=seeds,
        measure=measure.id,
        band=measure.bands[0].name,
        excess=Estimate.of(*excess),
        results=[_result(each, measure) for each in metrics.results if each.attack == attack and each.seed in seeds],
        costs=costs,
        reach=[found for found in metrics.reach if found.measure == measure.id],
        own_images=[each for each in metrics.own_images if each.attack == attack and each.seed in seeds],
        caption_flags=[each for each in metrics.caption_flags if each.attack == attack and each.seed in seeds],
        exposures=[each for each in metrics.exposures if each.attack == attack and each.seed in seeds],
        hits=[_hits(seed, found, groups, key) for seed, found in hits.items()],
        key_id=keyed_hash(key, "name of the key"),
        hashes=Hashes(
            manifest=file_hash(folder.manifest_file),
            metrics=file_hash(folder.path / "metrics.json"),
            scores={str(seed): scores_hash(folder, unit) for seed, unit in units.items()},
            state={str(seed): file_hash(folder.state_file(unit)) for seed, unit in units.items()},
            ledger={str(seed): file_hash(folder.ledger_file(unit)) for seed, unit in units.items()},
        ),
        made=_made(folder, manifest, list(units.values())),
        quality=quality_of(read_json(folder.path / "quality.json"), list(units.values())),
        command=command(
            metrics.pair,
            {attack: unit["settings"]},
            identity["defences"],
            asked_candidates(manifest),
            seeds,
            identity["measures"],
        ),
    )
    if public:
        return made
    shares = [
        shares_of(numbers[seed], band.name, found)
        for seed, own in every.items()
        for band, found in zip(bands, own, strict=True)
    ]
    return aggregated(made, numbers, nonce, shares, _paired(folder, metrics, measure, attack, numbers, every))


def _paired(
    folder: RunFolder,
    metrics: Metrics,
    measure: Measure,
    attack: str,
    numbers: Mapping[int, int],
    every: Mapping[int, Sequence[AttackHits]],
) -> list[PairedCounts]:
    """Return how each other attack of the run fared with the candidates of the same seed and number."""
    groups, bands = stored_groups(folder), nested_bands(measure)
    others = sorted({(cost.attack, cost.seed) for cost in metrics.costs if cost.attack != attack})
    found = []
    for other, seed in others:
        if seed not in numbers or every[seed][0].same_groups:
            continue
        theirs = unit_hits(folder, unit_name(other, seed), measure, groups, bands)
        scores = scores_hash(folder, unit_name(other, seed))
        found += [
            PairedCounts(seed=numbers[seed], band=band.name, attack=other, scores=scores, counts=paired_counts(a, b))
            for band, a, b in zip(bands, every[seed], theirs, strict=True)
        ]
    return found


def _code(attack: str, manifest: Mapping[str, Any], unit: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the code of what does not ship with sidebench; runs of `sidebench/1` did not keep it."""
    stored = manifest["identity"].get("code", {})
    known = {attack: unit.get("code", {}), **{name: stored.get(name, {}) for name in manifest["identity"]["defences"]}}
    own = stored.get("sidebench")
    return {name: {**code, **_address(code)} for name, code in known.items() if code and code != own}


def _address(code: Mapping[str, str]) -> dict[str, str]:
    """Return where a package can be had, as its metadata say; nothing for a local file."""
    if "package" not in code:
        return {}
    try:
        about = importlib.metadata.metadata(code["package"])
    except importlib.metadata.PackageNotFoundError:
        return {}
    urls = [line.partition(",")[2].strip() for line in about.get_all("Project-URL", [])]
    found = [url for url in [*urls, *about.get_all("Home-page", [])] if re.match("https?://", url)]
    return {"address": found[0]} if found else {}


def _result(found: Result, measure: Measure) -> Result:
    """Return a result as it stands in a record: curves of the headline measure only, they are most of the text."""
    return found if found.measure == measure.id else found.model_copy(update={"richness": None})


def _victim(folder: RunFolder, metrics: Metrics, manifest: Mapping[str, Any], hits: AttackHits) -> Victim:
    identity = manifest["identity"]
    shipped = load_pair(metrics.pair) if metrics.pair in pair_names() else None
    return Victim(
        name=metrics.pair,
        revision=metrics.pair_revision,
        identity=identity["pair_identity"],
        family=identity["model"]["family"],
        sources=_sources(manifest),
        model_sha256=identity["model"]["sha256"],
        data_sha256=manifest["data"]["sha256"],
        sides_sha256=sides_hash(read_table(folder.references_file)),
        control=manifest["control"],
        reference_sha256=identity.get("reference_model", {}).get("sha256", {}),
        control_check=metrics.control_check,
        training_images=metrics.training_images,
        held_out_images=metrics.held_out_images,
        training_groups=metrics.training_groups,
        held_out_groups=metrics.held_out_groups,
        made_by=manifest.get("made_by", ""),
        public=_is_public(manifest, metrics.pair),
        worked_example=shipped is not None and shipped.model.location.startswith("zoo:"),
        classes=[] if hits.strata is None else [(int(ours), int(theirs)) for ours, theirs in hits.strata.sizes],
    )


def _is_public(manifest: Mapping[str, Any], pair: str) -> bool:
    """Return whether the images are published; a manifest of before it was asked leaves that to the shipped pairs."""
    return bool(manifest.get("public", pair in pair_names() and load_pair(pair).public))


def _sources(manifest: Mapping[str, Any]) -> Any:
    """Return repository and commit of what came from the Hub; the name of a branch says nothing that lasts."""
    return {
        part: {key: found[key] for key in ("repo", "commit")} for part, found in manifest.get("sources", {}).items()
    }


def unit_hits(
    folder: RunFolder, unit: str, measure: Measure, groups: Groups, bands: Sequence[Band]
) -> list[AttackHits]:
    """Return what a unit hit in each of these bands, from its stored scores.

    Raises:
        CorruptRun: a score file is missing or broken.
    """
    manifest = read_json(folder.manifest_file)
    places = [(folder, shared_groups(groups))]
    if manifest["control"] == "reference-model":
        places.append((folder.reference(), {}))
    count = asked_candidates(manifest)
    found = [UnitScores(read_all_scores(place, unit, measure.space, count), [measure], out) for place, out in places]
    return [attack_hits(measure, band, found[0], groups, *found[1:]) for band in bands]


def _hits(seed: int, found: AttackHits, groups: Groups, key: bytes) -> Hits:
    out = shared_groups(groups)
    kept = {side: own[~out[side]] if side in out else own for side, own in groups.items()}
    own, text = (kept["training"], training_group) if found.same_groups else (kept.get("held_out"), held_out_group)
    names = [_names(kept["training"], key, training_group), [] if own is None else _names(own, key, text)]
    strata = found.strata or Strata(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    return Hits(
        seed=seed,
        training=pack(found.training_hits > 0),
        control=pack(found.control_hits > 0),
        training_groups=_named(found.training_credits, names[0]),
        control_groups=_named(found.control_credits, names[1]),
        owned=found.controlled and not found.same_groups,
        classes={
            side[place]: int(own[place])
            for side, own, credits in (
                (names[0], strata.training, found.training_credits),
                (names[1], strata.held_out, found.control_credits),
            )
            for place in range(len(own))
            if own[place] and credits[place]
        },
    )


def quality_of(found: Mapping[str, Mapping[str, Any]], units: Sequence[str]) -> Quality | None:
    """Return the mean quality of some units of a run's `quality.json`; None where it does not say that of each."""
    real = found.get("training images")
    if real is None or any(unit not in found for unit in units):
        return None

    def mean(key: str) -> float | None:
        values = [value for unit in units if (value := found[unit].get(key)) is not None]
        return float(np.mean(values)) if len(values) == len(units) else None

    return Quality.model_validate(
        {
            "frechet": mean("frechet_distance"),
            "frechet_of_training": real["frechet_distance"],
            "frechet_latents": mean("frechet_distance_latents"),
            "frechet_latents_of_training": real.get("frechet_distance_latents"),
            **{key: mean(key) for key in ("precision", "recall", "caption_accuracy", "held_out_caption_accuracy")},
        }
    )


def _names(groups: np.ndarray, key: bytes, text: Callable[[int], str]) -> list[str]:
    return [keyed_hash(key, text(int(number))) for number in np.unique(groups)]


def _named(credits: np.ndarray, names: Sequence[str]) -> dict[str, int | float]:
    """Return the credits by name, whole numbers where they are."""
    found = {names[int(place)]: float(credits[place]) for place in np.flatnonzero(credits)}
    return {name: int(credit) if credit.is_integer() else credit for name, credit in found.items()}


def _made(folder: RunFolder, manifest: Mapping[str, Any], units: Sequence[str]) -> Made:
    costs, here = read_json(folder.path / "costs.json"), manifest["environment"]
    identity = manifest["identity"]
    spent = [costs["units"][unit] for unit in units]
    return Made(
        device=manifest["device"],
        accelerator=here["accelerator"] if manifest["device"] == "cuda" else None,
        processor=here["processor"],
        system=here["system"],
        cores=here["cores"],
        threads=here["threads"],
        micro_batch=(manifest.get("batching") or identity["protocol"])["micro_batch"],
        versions=here["versions"],
        mixed=costs["mixed_environment"],
        prepare_seconds=sum(unit["prepare_seconds"] for unit in spent),
        generate_seconds=sum(unit["generate_seconds"] for unit in spent),
        probe_share_off=max(unit["probe"]["share_off"] for unit in spent),
    )


def scores_hash(folder: RunFolder, unit: str) -> str:
    """Return one SHA-256 over the names and SHA-256 of a unit's score files, as far as candidates were asked for."""
    manifest = read_json(folder.manifest_file)
    count = asked_candidates(manifest)
    files = []
    for file in sorted((folder.path / "scores").glob(f"{unit}.*.parquet")):
        name = re.search(r"\.([\d-]+)(\.\w+)?\.parquet$", file.name)
        shard = named(name[1], manifest) if name else None
        if shard is None or shard.numbers.start < count:
            files.append(file)
    listing = "".join(f"{file_hash(file)}  {re.sub(r'[^ -~]', '?', file.name)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        CorruptRun: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CorruptRun(f"{path.parent.name}/{path.name} cannot be read: {error.strerror}") from None
