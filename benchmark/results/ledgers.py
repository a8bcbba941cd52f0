"""A unit's ledger: what each of its shards cost, in one small file that stays when the images are taken away.

A run folder is handed to whoever checks it without its images, and costs must be counted again from it.
"""

from typing import Any

from ..files import read_info, read_json, write_checked_json
from .run_folder import RunFolder
from .shards import Shard, in_order, named


def keep_ledger(folder: RunFolder, unit: str) -> None:
    """Write what the unit's shards cost, from the images that are there; other shards keep what is written of them.

    Raises:
        CorruptRun: an image file or the ledger cannot be read.
    """
    file = folder.ledger_file(unit)
    before = _stored(folder, unit)
    costs = {shard.name: read_info(folder.images_file(unit, shard))["cost"] for shard in folder.image_shards(unit)}
    shards = {**before, **costs}
    if shards != before:
        write_checked_json(file, {"unit": unit, "shards": dict(sorted(shards.items()))})


def shard_costs(folder: RunFolder, unit: str, candidates: int) -> list[tuple[Shard, dict[str, Any]]]:
    """Return the shards that hold the first `candidates`, in order, each with its cost.

    A run of before ledgers were kept says it in its image files alone.

    Raises:
        CorruptRun: the ledger cannot be read, was changed, or names two shards that hold one candidate.
    """
    stored = _stored(folder, unit)
    if not stored:
        shards = folder.image_shards(unit)
        costs = {shard.name: read_info(folder.images_file(unit, shard))["cost"] for shard in shards}
    else:
        manifest = folder.manifest() or {}
        known = filter(None, (named(name, manifest) for name in stored))
        shards, costs = in_order(known, f"{folder.path.name}/{folder.ledger_file(unit).name}"), stored
    return [(shard, dict(costs[shard.name])) for shard in shards if shard.numbers.start < candidates]


def _stored(folder: RunFolder, unit: str) -> dict[str, Any]:
    file = folder.ledger_file(unit)
    return dict(read_json(file)["shards"]) if file.exists() else {}
