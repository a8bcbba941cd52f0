"""copying.json: AuthPct and C_T of a finished run's candidates, made when somebody asks for them.

No verdict rests on them, and they take longer than scoring: `sidebench score RUN --copying` writes them, and a report
shows them where they are.
"""

from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import read_json, write_json
from .run_folder import RunFolder, asked_candidates, believing, stored_pair, unit_name
from .schema import load_metrics


def copying_file(folder: RunFolder) -> Path:
    """Return where a run's figures are, if anybody asked for them."""
    return folder.path / "copying.json"


@believing
def write_copying(folder: RunFolder, pair_name: str | None) -> dict[str, Any]:
    """Compute the figures of every finished unit, write and return them; see `set_level_copying.assess`.

    Raises:
        BadInput: the run has no results yet, or the pair is not the one that it was made with.
    """
    from ..data.fits import Fits
    from ..data.pair import load_pair
    from ..data.references import load_references
    from ..measures import set_level_copying

    manifest, metrics = read_json(folder.manifest_file), load_metrics(folder)
    pair = load_pair(pair_name or stored_pair(folder))
    if pair.identity() != manifest["identity"]["pair_identity"]:
        raise BadInput(f"{folder.path.name} was made with another pair than {pair.name}; name its file with --pair")
    units = list(dict.fromkeys(unit_name(result.attack, result.seed) for result in metrics.results))
    references = load_references(pair)
    count = asked_candidates(manifest)
    images = {unit: folder.candidate_images(unit, count) for unit in units}
    found = set_level_copying.assess(images, references, Fits(references.content()))
    write_json(copying_file(folder), found)
    return found
