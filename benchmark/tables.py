"""Results as rows, as text tables for the terminal, and as verdicts in plain words."""

from typing import Any

from pydantic import ValidationError

from .errors import BadInput, CorruptRun
from .results import SCHEMA, Difference, Metrics, Rate, Result
from .store import RunFolder, read_json


def load_metrics(folder: RunFolder) -> Metrics:
    """Read metrics.json.

    Raises:
        BadInput: the run has no results yet.
        CorruptRun: the file is of another schema, or was changed by hand.
    """
    file = folder.path / "metrics.json"
    if not file.exists():
        raise BadInput(f"{folder.path} has no results yet; run the same command again to finish it")
    content = read_json(file)
    if content.get("schema") != SCHEMA:
        raise CorruptRun(f"{folder.path.name}/metrics.json has schema {content.get('schema')!r}, wanted {SCHEMA}")
    try:
        return Metrics.model_validate(content)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CorruptRun(f"{folder.path.name}/metrics.json, {key}: {error.errors()[0]['msg']}") from None


def text_tables(metrics: Metrics) -> str:
    """Return a table per measure, and one of costs."""
    from tabulate import tabulate

    parts = [
        f"{metrics.pair} (revision {metrics.pair_revision}), protocol {metrics.protocol}, control {metrics.control}: "
        f"{metrics.training_images} training and {metrics.held_out_images} held-out images, told apart with "
        f"AUC {metrics.control_check.auc:.2f} [{metrics.control_check.low:.2f}, {metrics.control_check.high:.2f}]. "
        f"{_defended(metrics)}"
        f"Percent of candidates, 95 % interval in brackets."
    ]
    parts += [measure_table(found, claims_excess=metrics.claims_excess) for found in by_measure(metrics).values()]
    if metrics.claims_excess:
        parts.append(calibrated_table(metrics))
    if metrics.comparisons:
        parts.append("attack against attack\n" + tabulate(comparison_rows(metrics), headers="keys", tablefmt="simple"))
    parts.append("cost\n" + tabulate(cost_rows(metrics), headers="keys", tablefmt="simple"))
    parts += [f"flag: {flag}" for flag in metrics.flags]
    return "\n\n".join(parts)


def _defended(metrics: Metrics) -> str:
    """Name the defences with their settings, in a sentence; nothing without any."""
    named = [
        f"{name} ({', '.join(f'{key} = {value}' for key, value in settings.items())})" if settings else name
        for name, settings in metrics.defences.items()
    ]
    return f"Defended by {' and '.join(named)}. " if named else ""


def measure_table(results: list[Result], *, claims_excess: bool = True) -> str:
    """Return the table of one measure, with its id as title."""
    from tabulate import tabulate

    table = measure_rows(results, claims_excess=claims_excess)
    aligned = ["left", "right", "left", *["right"] * (len(table[0]) - 3)]
    return f"{results[0].measure}\n" + tabulate(table, headers="keys", tablefmt="simple", colalign=aligned)


def by_measure(metrics: Metrics) -> dict[str, list[Result]]:
    """Return the results grouped by measure, in the run's order."""
    found: dict[str, list[Result]] = {}
    for result in metrics.results:
        found.setdefault(result.measure, []).append(result)
    return found


def measure_rows(results: list[Result], *, claims_excess: bool = True) -> list[dict[str, Any]]:
    """Return one row per attack, seed and band; measures without bands show their percentile.

    Without a fair control the rates on both sides stand for themselves and no excess is shown.
    """
    table = []
    for result in results:
        head = {"attack": result.attack, "seed": result.seed}
        if not result.bands:
            for side in ("training", "held_out"):
                value = getattr(result.percentile_95, side)
                head[f"95th percentile, {side.replace('_', '-')}"] = "-" if value is None else f"{value:.4f}"
            table.append({"attack": head.pop("attack"), "seed": head.pop("seed"), "band": "none fixed", **head})
        for band in result.bands:
            table.append(
                {
                    **head,
                    "band": band.band,
                    "AMS": percent(band.training.ams),
                    "UMS": percent(band.training.ums),
                    "unique": band.training.ums_best.count,
                    "held-out AMS": percent(band.held_out.ams),
                    "excess": percent(band.excess) if claims_excess else "not claimed",
                }
            )
    return table


def calibrated_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack, seed, measure and rate q that the run supports."""
    return [
        {
            "attack": result.attack,
            "seed": result.seed,
            "measure": result.measure,
            "q": f"{found.q:g}",
            "threshold": f"{found.tau:.4f} [{found.tau_low:.4f}, {found.tau_high:.4f}]",
            "AMS": percent(found.training),
            "held-out AMS": percent(found.held_out),
            "excess": percent(found.excess),
        }
        for result in metrics.results
        for found in result.calibrated
        if found.training and found.held_out and found.excess
    ]


def calibrated_table(metrics: Metrics) -> str:
    """Return rates at calibrated thresholds, and why the other thresholds were refused."""
    from tabulate import tabulate

    table = calibrated_rows(metrics)
    refused = {found.q: found.refused for r in metrics.results for found in r.calibrated if found.refused}
    parts = ["thresholds calibrated to a held-out hit rate q"]
    if table:
        parts.append(tabulate(table, headers="keys", tablefmt="simple", disable_numparse=True))
    if refused:
        parts.append(f"refused: {refused[max(refused)]}" + (" (smaller q likewise)" if len(refused) > 1 else ""))
    return "\n".join(parts)


def comparison_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per comparison of two attacks."""
    return [
        {
            "attack": found.first,
            "against": found.second,
            "seed": found.seed,
            "difference of excess": percent(found.difference),
            "ratio": _ratio(found.ratio),
            "p (Holm)": f"{found.p:.2g}",
            "verdict": found.verdict,
            "smallest seen": f"{100 * found.smallest_difference:.2f}",
        }
        for found in metrics.comparisons
    ]


def _ratio(found: Difference | None) -> str:
    return "-" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def cost_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack and seed: denoiser calls, denoiser-equivalents, and hits at equal cost."""
    return [
        {
            "attack": cost.attack,
            "seed": cost.seed,
            **{f"NFE {phase}": f"{cost.nfe.get(phase, 0):,}" for phase in ("prepare", "generate")},
            "denoiser-equivalents": f"{cost.denoiser_equivalents:,.0f}",
            "hits per 1,000 of them": f"{cost.hits_per_1000_equivalents:.2f}",
        }
        for cost in metrics.costs
    ]


def quality_rows(quality: dict[str, Any]) -> list[dict[str, str]]:
    """Return one row per unit, real training images first; nothing where quality was not assessed."""
    if "skipped" in quality:
        return []
    return [
        {
            "images": name,
            "Frechet distance to held-out (pixels)": _number(figures["frechet_distance"]),
            "precision": _number(figures.get("precision")),
            "recall": _number(figures.get("recall")),
            "pairwise distance": _number(figures.get("diversity")),
            "label accuracy on held-out": _number(figures["label_accuracy"]),
        }
        for name, figures in sorted(quality.items(), key=lambda item: (item[0] != "training images", item[0]))
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def percent(rate: Rate | Difference) -> str:
    """Return a rate or difference and its interval in percent."""
    return f"{100 * rate.value:.2f} [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"


def verdicts(metrics: Metrics) -> list[str]:
    """Say in plain words, for each attack and seed, what the headline measure's closest band shows."""
    if not metrics.results:
        return []
    headline = metrics.results[0].measure
    lines = []
    for result in by_measure(metrics)[headline]:
        if not result.bands:
            lines.append(f"{result.attack}, seed {result.seed}: {headline} has no fixed bands, so no verdict.")
            continue
        band = result.bands[0]
        if not metrics.claims_excess:
            training, held_out = percent(band.training.ams), percent(band.held_out.ams)
            lines.append(
                f"{result.attack}, seed {result.seed}, {result.candidates:,} candidates: hits {training} % on training "
                f"and {held_out} % on held-out images; the control is a surrogate, so no excess is claimed."
            )
            continue
        low, high = 100 * band.excess.low, 100 * band.excess.high
        if band.excess.low > 0:
            said = f"finds training images: {band.training.groups} different ones; excess {low:.2f} to {high:.2f} %"
        elif band.excess.high < 0:
            said = f"is nearer to held-out than to training images, which no leak explains ({low:.2f} to {high:.2f} %)"
        else:
            said = f"shows no excess over held-out images; at most {high:.2f} % could have gone unseen"
        lines.append(f"{result.attack}, seed {result.seed}, {result.candidates:,} candidates: {said}.")
    return lines
