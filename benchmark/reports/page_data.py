"""What a report is made of, read from a run folder once and checked; nothing is drawn here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..contracts import Measure
from ..data.references import shared_groups
from ..errors import BadInput, CorruptRun
from ..files import read_json
from ..registry import make_measure
from ..results.copying_figures import copying_file
from ..results.keyed_names import run_key
from ..results.run_folder import RunFolder, asked_candidates, is_unit_name, unit_name
from ..results.schema import Metrics, Result, load_metrics
from ..results.score_files import read_all_scores
from ..results.tuning_curve import Curve
from ..results.unit_scores import UnitScores, stored_groups
from . import attack_diagnostics, label_sheet
from .rates_by_threshold import Curves, by_threshold
from .strongest_pairs import ShownPair, strongest_pairs
from .tables import by_measure, probe_flags


@dataclass(frozen=True)
class UnitContents:
    """One attack under one seed, by the headline measure."""

    name: str
    result: Result
    best: dict[str, np.ndarray]
    """Best-match score of every candidate by side; under "reference" those of the reference model's candidates."""
    curves: Curves
    pairs: list[ShownPair]
    info: dict[str, Any]
    """What the attack's state says of its preparation; see `attack_diagnostics`."""
    cohesion: float | None
    """The setting below which clusters are dropped, where the attack has one."""


@dataclass(frozen=True)
class Contents:
    """A finished run: its files by name, and its units under the headline measure."""

    metrics: Metrics
    manifest: dict[str, Any]
    audit: dict[str, Any]
    quality: dict[str, Any]
    copying: dict[str, Any] | None
    """AuthPct and C_T; None where nobody asked for them."""
    costs: dict[str, Any]
    labels: dict[str, Any] | None
    """Precision by threshold from a person's answers to the contact sheet; None where nobody has labelled."""
    measure: Measure
    units: list[UnitContents]
    flags: list[str]
    """What a reader must know: of the numbers, and of what varies between runs."""
    tunings: list[Curve]
    """The curves that attacks' settings come from, where the run was given any."""

    @property
    def headline(self) -> list[Result]:
        """The results under the headline measure."""
        return [unit.result for unit in self.units]


def read_contents(folder: RunFolder, *, with_images: bool = False) -> Contents:
    """Read a finished run; pictures of the strongest pairs only where they were asked for.

    Raises:
        BadInput: the run has no results yet.
        CorruptRun: a file is missing, or its contents contradict the rest of the folder.
    """
    metrics, manifest = load_metrics(folder), read_json(folder.manifest_file)
    if not metrics.results:
        raise BadInput(f"{folder.path} has no results yet; run the same command again to finish it")
    measure = make_measure(metrics.results[0].measure)
    attacks = list(dict.fromkeys(result.attack for result in metrics.results))
    return Contents(
        metrics=metrics,
        manifest=manifest,
        audit=read_json(folder.path / "audit.json"),
        quality=read_json(folder.path / "quality.json"),
        copying=read_json(copying_file(folder)) if copying_file(folder).exists() else None,
        costs=read_json(folder.path / "costs.json"),
        labels=label_sheet.precision(folder) if label_sheet.answers_file(folder).exists() else None,
        measure=measure,
        units=[_unit(folder, manifest, measure, result, with_images) for result in by_measure(metrics)[measure.id]],
        flags=[*metrics.flags, *probe_flags(folder)],
        tunings=[_tuning(folder, attack) for attack in attacks if folder.tuning_file(attack).exists()],
    )


def _tuning(folder: RunFolder, attack: str) -> Curve:
    try:
        curve = Curve.model_validate(read_json(folder.tuning_file(attack))["curve"])
    except (ValidationError, KeyError):
        raise CorruptRun(f"tuning/{attack}.json holds no curve of `sidebench tune`") from None
    if curve.attack != attack:
        raise CorruptRun(f"tuning/{attack}.json holds a curve of {curve.attack}")
    return curve


def _unit(
    folder: RunFolder, manifest: dict[str, Any], measure: Measure, result: Result, with_images: bool
) -> UnitContents:
    name = _unit_name(manifest, result)
    groups, count = stored_groups(folder), asked_candidates(manifest)
    scores = UnitScores(read_all_scores(folder, name, measure.space, count), [measure], shared_groups(groups))
    best = {str(side): scores.best_scores[measure.id, side] for side in groups}
    reference = None
    if manifest["control"] == "reference-model":
        theirs = read_all_scores(folder.reference(), name, measure.space, count)
        reference = UnitScores(theirs, [measure])
        best["reference"] = reference.best_scores[measure.id, "training"]
    cohesion = manifest["units"][name]["settings"].get("cohesion")
    return UnitContents(
        name=name,
        result=result,
        best=best,
        curves=by_threshold(measure, scores, groups, reference),
        pairs=strongest_pairs(
            folder, name, measure, scores, groups["training"], run_key(folder), with_images=with_images
        ),
        info=attack_diagnostics.read(folder, name),
        cohesion=cohesion if isinstance(cohesion, float) else None,
    )


def _unit_name(manifest: dict[str, Any], result: Result) -> str:
    """Return the unit's name, which is part of paths, if the manifest has it."""
    name = unit_name(result.attack, result.seed)
    if not is_unit_name(name) or name not in manifest["units"]:
        raise CorruptRun(f"metrics.json, results: {name!r} is no unit of the manifest")
    return name
