"""The report of a run: one self-contained HTML page from the files of its folder."""

import base64
from pathlib import Path
from typing import Any

from . import tables
from .audit import curve_svg, table_rows
from .figures import histogram, rarefaction, to_svg
from .rates import UnitScores
from .registry import make_measure
from .results import Metrics
from .scores import read_all_scores
from .store import RunFolder, read_json, shard_count, write_atomic


def write_report(folder: RunFolder, target: Path, *, with_images: bool = False) -> None:
    """Write the HTML report, one file without any outside reference.

    Without `with_images` it holds numbers only: extracted images are somebody's data.
    """
    from jinja2 import Environment

    metrics = tables.load_metrics(folder)
    manifest = read_json(folder.manifest_file)
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            metrics=metrics,
            manifest=manifest,
            costs=read_json(folder.path / "costs.json"),
            quality=tables.quality_rows(read_json(folder.path / "quality.json")),
            verdicts=tables.verdicts(metrics),
            rates={
                name: tables.measure_rows(results, claims_excess=metrics.claims_excess)
                for name, results in tables.by_measure(metrics).items()
            },
            flags=[*metrics.flags, *tables.probe_flags(folder)],
            cost_table=tables.cost_rows(metrics.costs),
            reference_cost_table=tables.cost_rows(metrics.reference_costs),
            calibrated=tables.calibrated_rows(metrics) if metrics.claims_excess else [],
            refusals=sorted({found.refused for r in metrics.results for found in r.calibrated if found.refused}),
            comparisons=tables.comparison_rows(metrics),
            rarefaction=to_svg(rarefaction(tables.by_measure(metrics)[metrics.results[0].measure])),
            audit=_audit(folder, metrics),
            copying=read_json(folder.path / "copying.json"),
            histograms=_histograms(folder, metrics, shard_count(manifest["identity"])),
            evidence=_evidence(folder, metrics, with_images),
            with_images=with_images,
        )
    )
    write_atomic(target, lambda file: file.write_text(page, encoding="utf-8"))


def _audit(folder: RunFolder, metrics: Metrics) -> dict[str, Any]:
    """Return the detector's audit under the headline measure: a picture and a table."""
    stored, headline = read_json(folder.path / "audit.json"), metrics.results[0].measure
    return {
        "picture": curve_svg(stored, headline),
        "rows": table_rows(stored, headline),
        "missing": stored["non_copies_missing"],
    }


def _evidence(folder: RunFolder, metrics: Metrics, with_images: bool) -> list[dict[str, Any]]:
    """Return the strongest pairs of each unit; pictures as data URIs only where they were asked for."""
    found = []
    for cost in metrics.costs:
        source = folder.path / "evidence" / f"{cost.attack}.s{cost.seed}"
        stored = read_json(source / "pairs.json")
        for rank, pair in enumerate(stored["pairs"], start=1):
            entry = {"attack": cost.attack, "seed": cost.seed, "rank": rank, **pair}
            if with_images:
                file = source / f"{rank:02d}-candidate{pair['candidate']}-training{pair['reference']}.png"
                entry["picture"] = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
            found.append(entry)
    return found


def _histograms(folder: RunFolder, metrics: Metrics, shards: int) -> dict[str, str]:
    """Return per unit an SVG of its best-match scores under the headline measure."""
    measure = make_measure(metrics.results[0].measure)
    pictures = {}
    for cost in metrics.costs:
        unit = f"{cost.attack}.s{cost.seed}"
        scores = UnitScores(read_all_scores(folder, unit, measure.space, shards), [measure])
        pictures[f"{cost.attack}, seed {cost.seed}"] = to_svg(histogram(scores, measure))
    return pictures
