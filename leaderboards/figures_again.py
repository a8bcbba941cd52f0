"""A run folder's numbers against its score files: every figure is computed again, and the first difference named."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..benchmark.data.references import shared_groups
from ..benchmark.errors import BadRecord
from ..benchmark.files import read_json
from ..benchmark.registry import make_measure
from ..benchmark.results.from_scores import Asked, figures, said_with_care
from ..benchmark.results.run_folder import RunFolder, asked_candidates, rules_of, unit_name
from ..benchmark.results.schema import Metrics
from ..benchmark.results.unit_scores import Groups, stored_captions, stored_groups

SAME = 1e-9
"""Largest relative difference of two equal figures: other processors round the last digits otherwise."""


def check_figures(folder: RunFolder, metrics: Metrics) -> None:
    """Compute every figure of metrics.json that follows from scores, references and ledgers, and compare.

    What needs the images themselves is not among them (whether both sides are distinguishable, what a measure can
    reach): a challenge computes that again.

    Raises:
        BadRecord: a figure is another one; the first that differs is named with both values.
        CorruptRun: a score file is missing or broken.
    """
    said = metrics.model_dump(mode="json", by_alias=True)
    found = next(differences(said, again(folder, metrics)), None)
    if found is not None:
        key, ours, theirs = found
        raise BadRecord(
            f"{folder.path.name}/metrics.json, {key}: says {ours}, its scores say {theirs}; `sidebench run` with the "
            f"same options computes it again"
        )


def again(folder: RunFolder, metrics: Metrics) -> dict[str, Any]:
    """Return what metrics.json must say, as far as it can be computed from the folder."""
    manifest, groups = read_json(folder.manifest_file), stored_groups(folder)
    identity = manifest["identity"]
    units = list(dict.fromkeys((unit_name(r.attack, r.seed), r.attack, r.seed) for r in metrics.results))
    measures = [make_measure(each) for each in identity["measures"]]
    asked = Asked(units, measures, asked_candidates(manifest), manifest["control"], metrics.claims_excess)
    found = figures(folder, asked, groups, captions=stored_captions(folder))._asdict()
    found.pop("varying")
    again = metrics.model_copy(update=found)
    again = again.model_copy(update={"claims": said_with_care(folder, units, again)})
    numbers = again.model_dump(mode="json", by_alias=True, include=set(found))
    return {
        **numbers,
        "pair": identity["pair"],
        "protocol": rules_of(manifest)["version"],
        "control": manifest["control"],
        "defences": identity["defences"],
        **_sizes(groups),
        **_overlap(groups, metrics),
    }


def _sizes(groups: Groups) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for side in ("training", "held_out"):
        own = groups.get(side, np.empty(0, dtype=np.int64))
        sizes |= {f"{side}_images": len(own), f"{side}_groups": len(np.unique(own))}
    return sizes


def _overlap(groups: Groups, metrics: Metrics) -> dict[str, Any]:
    """Return how many images of groups on both sides were left out; of the check itself only what is said is known."""
    check = metrics.control_check
    if check is None:
        return {}
    shared = {side: own[shared_groups(groups)[side]] for side, own in groups.items()}
    counts = {f"overlapping_{side}": len(own) for side, own in shared.items()}
    said = check.model_dump(mode="json")
    apart = not check.low <= 0.5 <= check.high
    return {
        "control_check": {
            **said,
            **counts,
            "overlapping_groups": len(np.unique(shared["training"])),
            "told_apart": apart,
        }
    }


def differences(said: Any, again: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, first value, second value) of whatever differs; a key that only `said` has is no difference.

    Examples:
        >>> list(differences({"a": [1, 2.0], "b": 3}, {"a": [1, 2.5]}))
        [('a.1', 2.0, 2.5)]
    """
    if isinstance(said, Mapping) and isinstance(again, Mapping):
        for name, value in again.items():
            yield from differences(said.get(name), value, f"{key}.{name}" if key else name)
        if key and (more := sorted(said.keys() - again.keys())):
            yield f"{key}.{more[0]}", said[more[0]], None
    elif isinstance(said, list) and isinstance(again, list):
        if len(said) != len(again):
            yield key, f"{len(said)} entries", len(again)
        for place, (ours, theirs) in enumerate(zip(said, again, strict=False)):
            yield from differences(ours, theirs, f"{key}.{place}")
    elif not _same(said, again):
        yield key, said, again


def _same(ours: Any, theirs: Any) -> bool:
    numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (ours, theirs)]
    if all(numbers):
        return bool(abs(ours - theirs) <= SAME * max(1.0, abs(theirs)))
    return type(ours) is type(theirs) and bool(ours == theirs)
