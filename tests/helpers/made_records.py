"""Records for boards: variations of a real one, with hits drawn at a given rate."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from sidebench.benchmark.data.pair import pair_names
from sidebench.benchmark.files import write_text
from sidebench.benchmark.registry import find, names
from sidebench.benchmark.results.schema import Estimate
from sidebench.benchmark.stats.comparison import AttackHits, excess_of
from sidebench.benchmark.stats.intervals import wilson
from sidebench.leaderboards.badge import Checked
from sidebench.leaderboards.make_records import write_record
from sidebench.leaderboards.owners import FILE, claim, read_owners
from sidebench.leaderboards.ranking import Entry
from sidebench.leaderboards.record import OF_TEXT, Hits, Quality, Record, pack

OWN = {"name": "faces", "worked_example": False}
HUGE = "<b>&amp; | *very* _long_ [name](http://x.example) \u202e\n" + "n" * 200


def vary(
    base: Record,
    rate: float,
    draw: int,
    *,
    candidates: int | None = None,
    seeds: Sequence[int] = (0,),
    held_out: float = 0.005,
    **changes: Any,
) -> Record:
    """Return the record with hits drawn at a rate, and what follows from them: excess, first band, cost.

    `changes` go to the record or, by name, to its claim, victim, protocol or hardware.
    """
    rng = np.random.default_rng(draw)
    n = candidates or base.candidates
    hits, found = [], []
    for seed in seeds:
        sides = [rng.random(n) < each for each in (rate, held_out)]
        groups = (base.victim.training_groups, base.victim.held_out_groups)
        credits = [
            np.bincount(rng.integers(0, size, side.sum()), minlength=size)
            for side, size in zip(sides, groups, strict=True)
        ]
        named = [{f"{place:016x}": int(count) for place, count in enumerate(credit) if count} for credit in credits]
        hits.append(
            Hits(
                seed=seed,
                training=pack(sides[0]),
                control=pack(sides[1]),
                training_groups=named[0],
                control_groups=named[1],
            )
        )
        found.append(AttackHits(sides[0], sides[1], credits[0], credits[1]))
    pooled = AttackHits(
        *(np.concatenate([each[part] for each in found]) for part in (0, 1)),
        *(np.sum([each[part] for each in found], axis=0) for part in (2, 3)),
    )
    excess = excess_of(pooled)
    made = base.model_copy(
        update={
            "candidates": n,
            "seeds": list(seeds),
            "hits": hits,
            "excess": Estimate(value=excess.value, low=excess.interval.low, high=excess.interval.high),
            "results": [_result(base, seed, each) for seed, each in zip(seeds, found, strict=True)],
            "quality": Quality(frechet=1.0, frechet_of_training=0.9, precision=0.9, recall=0.9),
            "costs": [
                base.costs[0].model_copy(update={"seed": seed, "hits": int(each.training_hits.sum())})
                for seed, each in zip(seeds, found, strict=True)
            ],
        }
    )
    return changed(made, **changes)


def changed(record: Record, **changes: Any) -> Record:
    """Return the record with other fields, also of its claim, victim, protocol or hardware.

    Another attack is of the version that ships, and `rules` is the protocol's version.
    """
    update: dict[str, Any] = {}
    if changes.get("attack") in names("attack"):
        changes = {"version": find("attack", changes["attack"]).version, **changes}
    if "rules" in changes:
        update["protocol"] = record.protocol.model_copy(update={"version": changes.pop("rules")})
    if changes.get("name", "digits") not in pair_names():
        changes = {"made_by": "a recipe", **changes}
    for name, value in changes.items():
        owner = next(
            (part for part in ("claim", "victim", "protocol", "made") if hasattr(getattr(record, part), name)), None
        )
        if owner is None:
            update[name] = value
        else:
            update[owner] = update.get(owner, getattr(record, owner)).model_copy(update={name: value})
    return record.model_copy(update=update)


def entry(record: Record, checked: Any = None) -> Entry:
    """Return a record as if it had been read from its file."""
    import hashlib

    digest = hashlib.sha256(record.text().encode()).hexdigest()
    return Entry(record, record.file(Path()).as_posix(), digest, checked, maintainers=record.owner is None)


def repeated(record: Record, digit: str = "f") -> Record:
    """Return the record as if somebody had made the run again: another manifest, and other seconds in the states."""
    state = dict.fromkeys(record.hashes.state, 64 * digit)
    return changed(record, hashes=record.hashes.model_copy(update={"manifest": 64 * digit, "state": state}))


def store(record: Record, records: Path) -> Path:
    """Write a record below a folder, list it there as its maintainers' own, and return its file."""
    (listed,) = claim([record], records, None)
    return write_record(listed, records)


def list_file(file: Path, name: str, records: Path) -> None:
    """List a file as an unsigned record of a folder's maintainers under a name, as older schemas have none else."""
    write_text(records / FILE, read_owners(records).listing(name, [file.read_bytes()]).text())


def as_version(record: Record, version: int) -> dict[str, Any]:
    """Return a record's content under an older schema, 1 to 5.

    Before 6 nothing was said of captions that images show, before 5 there were no tracks and versions of attacks,
    before 4 no code and no signatures, in 1 no sources.
    """
    content: dict[str, Any] = json.loads(record.text())
    for field in OF_TEXT if content["quality"] else ():
        del content["quality"][field]
    if version == 5:
        return {**content, "schema": "sidebench-record/5"}
    for field in ("track", "paired", "reach", "own_images", "caption_flags", "exposures"):
        del content[field]
    del content["claim"]["version"]
    if version == 4:
        return {**content, "schema": "sidebench-record/4"}
    content["protocol"] |= {"micro_batch": content["made"].pop("micro_batch"), "shard": 256}
    del content["claim"]["code"], content["owner"], content["signature"]
    if version == 1:
        del content["victim"]["sources"]
    return {**content, "schema": f"sidebench-record/{version}"}


def upgraded(record: Record, version: int = 1) -> Record:
    """Return what of a record made now is left once it went through an older schema, which `as_version` gives."""
    return changed(record, reach=[], version=version)


def _result(base: Record, seed: int, hits: AttackHits) -> Any:
    result = base.headline(base.seeds[0])
    n, first = len(hits.training_hits), result.bands[0]
    sides = {}
    for name, bits, credits in (
        ("training", hits.training_hits, hits.training_credits),
        ("held_out", hits.control_hits, hits.control_credits),
    ):
        count = int(bits.sum())
        interval = wilson(count, n)
        rate = first.training.ams.model_copy(
            update={"count": count, "value": count / n, "low": interval.low, "high": interval.high}
        )
        sides[name] = first.training.model_copy(update={"ams": rate, "groups": int((credits > 0).sum())})
    bands = [first.model_copy(update=sides), *result.bands[1:]]
    return result.model_copy(update={"seed": seed, "candidates": n, "bands": bands})


def badge(entry_: Any, **changes: Any) -> Checked:
    known = {"record": entry_.sha256, "checked": 32, "agreed": 32, "of": 40, "tolerance": 0.01}
    known |= {"schema": "sidebench-challenge/1", "draw": "0" * 32, "largest": 0.0, "device": "cpu"}
    return Checked(**{**known, "day": date(2026, 2, 1), **changes})
