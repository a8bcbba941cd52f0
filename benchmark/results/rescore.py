"""`sidebench score`: other bands on a finished run, from its stored scores alone; no model, no image."""

from collections.abc import Sequence

import numpy as np

from ..contracts import Band, Measure
from ..data.references import shared_groups
from ..errors import BadSetting, UnknownName
from ..files import read_json
from ..measures import hits
from ..registry import make_measure
from .rates import measure_result
from .run_folder import RunFolder, asked_candidates, believing
from .schema import Result
from .score_files import read_all_scores
from .unit_scores import UnitScores, stored_groups


def parse_bands(text: str) -> list[Band]:
    """Parse `near=0:0.4,far=0.4:0.8` into bands, closest first as written.

    Raises:
        BadSetting: a band is not written so, or its edges are not in order.
    """
    bands = []
    for part in text.split(","):
        name, equals, edges = part.strip().partition("=")
        low, colon, high = edges.partition(":")
        try:
            band = Band(name, float(low), float(high))
        except ValueError:
            equals = ""
        if not (equals and colon and name):
            raise BadSetting(f"band {part!r}: write it as NAME=LOW:HIGH")
        if not band.low < band.high:
            raise BadSetting(f"band {part!r}: the low edge must be below the high one")
        bands.append(band)
    return bands


@believing
def rescore(folder: RunFolder, bands: Sequence[Band], measure_id: str | None = None) -> list[Result]:
    """Compute every rate of a run again with these bands, for its headline measure or the one named.

    Raises:
        UnknownName: the run was not scored by this measure.
        BadSetting: an edge lies beyond the stored floor, or off the stored bins.
        CorruptRun: a stored file is missing or broken.
    """
    manifest = read_json(folder.manifest_file)
    identity = manifest["identity"]
    chosen = measure_id or identity["measures"][0]
    if chosen not in identity["measures"]:
        raise UnknownName("measure of this run", chosen, identity["measures"])
    measure = make_measure(chosen)
    for band in bands:
        check_band(measure, band)
    measure.bands = tuple(bands)
    count = asked_candidates(manifest)
    groups = stored_groups(folder)
    left_out = shared_groups(groups)
    reference = folder.reference() if manifest["control"] == "reference-model" else None
    results = []
    for name in folder.scored_units(manifest, measure.space):
        unit = manifest["units"][name]
        scores = UnitScores(read_all_scores(folder, name, measure.space, count), [measure], left_out)
        theirs = UnitScores(read_all_scores(reference, name, measure.space, count), [measure]) if reference else None
        results.append(measure_result(unit["attack"], unit["seed"], measure, scores, groups, theirs))
    return results


def check_band(measure: Measure, band: Band) -> None:
    """Refuse a band that the stored pairs cannot answer."""
    far = hits.far_edge(band, measure)
    if not hits.within(np.array(far), measure.floor, measure):
        raise BadSetting(f"band {band.name}: pairs of {measure.id} are stored up to {measure.floor:g}, not {far:g}")
    for edge in (band.low, band.high):
        if abs(edge / measure.bin_width - round(edge / measure.bin_width)) > 1e-6:
            raise BadSetting(f"band {band.name}: {edge:g} is no multiple of the stored bins' {measure.bin_width:g}")
