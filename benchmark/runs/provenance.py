"""provenance.json of a detection: which model and images its numbers are of, and with what they were made."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import environment
from ..contracts import ModelSpec
from ..data.dataset_files import fetch_data
from ..data.pair import Pair
from ..files import write_checked_json
from ..results.detection import PROVENANCE, PROVENANCE_FILE, Provenance, read_provenance
from ..results.unit_scores import sides_hash
from .write_results import references_table

if TYPE_CHECKING:
    from ..data.references import References


def note_provenance(
    folder: Path,
    pair: Pair,
    spec: ModelSpec,
    sources: Mapping[str, dict[str, str]],
    known: "References",
    negatives: int,
    device: str,
    micro_batch: int,
) -> None:
    """Write provenance.json, or add to the one there under which versions and hardware the work goes on.

    Args:
        folder: Of the detection.
        pair: Whose captions are labelled.
        spec: The model, with the SHA-256 of its files.
        sources: Where the model came from.
        known: The pair's images.
        negatives: Never-seen prompts that came from a file.
        device: On which the model runs.
        micro_batch: Rows that the denoiser sees at a time.
    """
    file, here = folder / PROVENANCE_FILE, environment.describe()
    if file.exists():
        found = read_provenance(file)
        if here == found.environments[-1]:
            return
        found = found.model_copy(update={"environments": [*found.environments, here]})
    else:
        found = Provenance(
            schema=PROVENANCE,
            pair=pair.name,
            revision=pair.revision,
            identity=pair.identity(),
            family=spec.family,
            control=pair.control,
            sources={**sources, **({"data": fetch_data(pair.data).origin()} if pair.data.source == "hub" else {})},
            model_sha256=spec.content()["sha256"],
            data_sha256=known.fingerprint,
            sides_sha256=sides_hash(references_table(known)),
            **_sizes(known),
            public=pair.public,
            made_by=pair.made_by,
            negatives=negatives,
            device=device.partition(":")[0],
            micro_batch=micro_batch,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            environments=[here],
        )
    write_checked_json(file, found.model_dump(mode="json", by_alias=True))


def _sizes(known: "References") -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for side, part in (("training", known.training), ("held_out", known.held_out)):
        sizes |= {f"{side}_images": len(part), f"{side}_groups": len(np.unique(part.groups))}
    return sizes
