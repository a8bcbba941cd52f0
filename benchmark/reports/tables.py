"""Results as rows, as text tables for the terminal, and as verdicts in plain words."""

import math
from collections.abc import Sequence
from typing import Any

from ..files import read_json
from ..results.run_folder import RunFolder
from ..results.schema import Cost, Effort, Estimate, Exposure, LeakClaim, Metrics, OwnImages, Rate, Result
from ..results.tuning_curve import Curve
from .layout import table, wrapped

ONE_PREPARATION = "of this preparation of each: another seed may say otherwise"
"""What a comparison under one seed is about."""


def text_tables(metrics: Metrics, flags: Sequence[str] = (), width: int | None = None) -> str:
    """Return a table of each measure's rates, of comparisons, of costs and of equal effort.

    `flags` come on top of the metrics' own; no line is wider than `width`, where one is given.
    """
    intro = (
        f"{metrics.pair} (revision {metrics.pair_revision}), protocol {metrics.protocol}, control {metrics.control}: "
        f"{_images(metrics)}. {_defended(metrics)}Percent of candidates, 95 % interval in brackets."
    )
    parts = [wrapped(intro, width)]
    if metrics.own_images:
        parts.append(own_image_table(metrics, width))
    if metrics.caption_flags:
        parts.append(caption_flag_table(metrics, width))
    if metrics.exposures:
        parts.append(exposure_table(metrics, width))
    measures = list(by_measure(metrics).values())
    parts += [measure_table(found, claims_excess=metrics.claims_excess, width=width) for found in measures]
    if metrics.claims_excess:
        parts.append(calibrated_table(metrics, [found[0].measure for found in measures], width))
    if said := reach_table(metrics, [found[0].measure for found in measures], width):
        parts.append(said)
    if metrics.comparisons:
        rows = table(comparison_rows(metrics), width, keys=4)
        title = wrapped(f"attack against attack, {ONE_PREPARATION}", width)
        parts.append(f"{title}\n{rows}")
    if metrics.attack_ratios:
        rows = table(ratio_rows(metrics), width, keys=4)
        parts.append(f"attack against attack over their preparations\n{rows}")
    parts.append("cost\n" + table(cost_rows(metrics.costs), width, keys=2))
    if metrics.efforts:
        parts.append("at equal effort\n" + table(effort_rows(metrics.efforts), width, keys=4))
    if metrics.reference_costs:
        rows = table(cost_rows(metrics.reference_costs), width, keys=2)
        parts.append(f"cost of the reference model's run, charged to no attack\n{rows}")
    parts += [wrapped(f"flag: {flag}", width) for flag in [*metrics.flags, *flags]]
    return "\n\n".join(parts)


def model_line(folder: RunFolder) -> str:
    """Name a model of somebody's own and the files that it is made of, in a line; nothing for any other."""
    manifest = folder.manifest() or {}
    if "model_name" not in manifest:
        return ""
    files = ", ".join(f"{name} {digest[:12]}" for name, digest in manifest["identity"]["model"]["sha256"].items())
    return f"model {manifest['model_name']} (SHA-256: {files})"


def _defended(metrics: Metrics) -> str:
    """Name the defences with their settings, in a sentence; nothing without any."""
    named = [
        f"{name} ({', '.join(f'{key} = {value}' for key, value in settings.items())})" if settings else name
        for name, settings in metrics.defences.items()
    ]
    return f"Defended by {' and '.join(named)}. " if named else ""


def probe_flags(folder: RunFolder) -> list[str]:
    """Return a line for each unit that comes out otherwise with another micro-batch or in float32, and for a mixed run.

    From costs.json.
    """
    nested = [(f"reference model, {unit}", found) for unit, found in _timed_units(folder.reference())]
    units = [*_timed_units(folder), *nested]
    batch = [
        f"{unit}: {100 * probe['share_off']:.1f} % of the pixels of {probe['candidates']} candidate"
        f"{'' if probe['candidates'] == 1 else 's'} change with the micro-batch, by up to {probe['largest']} of 255: "
        f"these numbers depend on the machine"
        for unit, found in units
        for probe in [found["probe"]]
        if probe["above_limit"]
    ]
    wide = [f"{unit}: {said}" for unit, found in units if (said := _precision_flag(found.get("float32")))]
    return [*_mixed_flag(folder), *batch, *wide]


def _mixed_flag(folder: RunFolder) -> list[str]:
    """Say so where a run went on with other versions, other code of sidebench or on other hardware."""
    file = folder.path / "costs.json"
    if not file.exists() or not read_json(file).get("mixed_environment"):
        return []
    return ["parts of this run were made with other versions, other code of sidebench or on other hardware"]


def _precision_flag(found: dict[str, Any] | None) -> str:
    """Say what float32 decides otherwise; nothing where it decides the same, or the run is in float32."""
    if found is None:
        return ""
    if found["refused"]:
        return f"not held against float32: {found['refused']}"
    if not found["decided_otherwise"]:
        return ""
    return (
        f"in float32, {found['decided_otherwise']} of {found['candidates']} candidates fall into another band: these "
        f"numbers depend on the precision"
    )


def _timed_units(folder: RunFolder) -> list[tuple[str, dict[str, Any]]]:
    """Return what varies between runs by unit; nothing where the run is not there."""
    file = folder.path / "costs.json"
    return sorted(read_json(file)["units"].items()) if file.exists() else []


def _images(metrics: Metrics) -> str:
    """Say in half a sentence which images were compared."""
    checked, training = metrics.control_check, f"{metrics.training_images} training"
    if metrics.control == "reference-model":
        return f"{training} images, attacked in the same way on the model and on a reference model"
    if checked is None:
        return f"{training} images and no control, so raw rates only"
    distinguishable = "distinguishable" if checked.told_apart else "not distinguishable"
    return (
        f"{training} and {metrics.held_out_images} held-out images, {distinguishable} "
        f"(AUC {checked.auc:.2f} [{checked.low:.2f}, {checked.high:.2f}])"
    )


def measure_table(results: list[Result], *, claims_excess: bool = True, width: int | None = None) -> str:
    """Return the table of one measure, with its id as title."""
    rows = measure_rows(results, claims_excess=claims_excess)
    return f"{results[0].measure}\n{table(rows, width, keys=3, aligned='lrl' + 'r' * (len(rows[0]) - 3))}"


def by_measure(metrics: Metrics) -> dict[str, list[Result]]:
    """Return the results grouped by measure, in the run's order."""
    found: dict[str, list[Result]] = {}
    for result in metrics.results:
        found.setdefault(result.measure, []).append(result)
    return found


def measure_rows(results: list[Result], *, claims_excess: bool = True, detailed: bool = False) -> list[dict[str, Any]]:
    """Return one row per attack, seed and band; measures without bands show their percentile.

    Without a fair control the rates on both sides stand for themselves and no excess is shown. `detailed` adds what
    a page has room for: duplicate groups, the matched rate where the sides differ in size, and the label-swap test.
    """
    matched = any(band.matched_ams is not None for result in results for band in result.bands)
    rows: list[dict[str, Any]] = []
    for result in results:
        head = {"attack": result.attack, "seed": result.seed}
        if not result.bands:
            for side in ("training", _control_side(result)):
                value = getattr(result.percentile_95, side)
                head[f"95th percentile, {_NAMES[side]}"] = "-" if value is None else f"{value:z.4f}"
            rows.append({"attack": head.pop("attack"), "seed": head.pop("seed"), "band": "none fixed", **head})
        for band in result.bands:
            row = {
                **head,
                "band": band.band,
                "AMS": percent(band.training.ams),
                "UMS": percent(band.training.ums),
                "unique groups": band.training.groups,
            }
            if detailed:
                row["largest group"] = band.training.largest_group
            if detailed and matched:
                row["matched AMS"] = "-" if band.matched_ams is None else f"{100 * band.matched_ams:.2f}"
            if control := band.reference or band.held_out:
                row[f"{_NAMES[_control_side(result)]} AMS"] = percent(control.ams)
                row["excess"] = percent(band.excess) if claims_excess else "not claimed"
                if detailed and claims_excess and band.label_swap_p is not None:
                    row["swap p"] = f"{band.label_swap_p:.2g}"
            rows.append(row)
    return rows


_NAMES = {"training": "training", "held_out": "held-out", "reference": "reference model"}


def _control_side(result: Result) -> str:
    """Return the name of the field in which a result's control stands."""
    has_reference = result.percentile_95.reference is not None or any(band.reference for band in result.bands)
    return "reference" if has_reference else "held_out"


def own_image_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack that replays captions and seed: how often the caption's own image is nearest."""
    control = "reference model" if metrics.control == "reference-model" else "held-out captions"
    return [
        {
            "attack": found.attack,
            "seed": found.seed,
            "caption families": f"{found.training_families} and {found.control_families or 0}",
            "training captions": percent(found.training),
            control: percent(found.control),
            "difference": percent(found.difference) if metrics.claims_excess else "not claimed",
            f"within {found.threshold:.3g}": percent(found.extracted),
            f"within {found.threshold:.3g}, {control}": percent(found.extracted_control),
        }
        for found in metrics.own_images
    ]


def own_image_note(metrics: Metrics) -> str:
    """Say in a sentence what the own-image rates are, and what they are not."""
    found = metrics.own_images[0]
    calibrated = f"calibrated to q = {found.q:g}" if found.q is not None else "the closest band's: no q is supported"
    return (
        f"Percent of candidates whose nearest image, of X and H together, is their caption's own; caption families are "
        f"the samples. That is a link and no extraction yet, which needs a distance within the threshold too "
        f"({found.measure}, {calibrated})."
    )


def own_image_table(metrics: Metrics, width: int | None = None) -> str:
    """Return the own-image rates under a title."""
    rows = table(own_image_rows(metrics), width, keys=2, plain=True)
    return "\n".join(["own image nearest", wrapped(own_image_note(metrics), width), rows])


def caption_flag_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack that calls captions memorised and seed, of those for which a threshold can be set."""
    return [
        {
            "attack": found.attack,
            "seed": found.seed,
            "threshold": f"{'below' if found.kind == 'cliques' else 'above'} {found.threshold:.4g}",
            "training captions": percent(found.training),
            "held-out captions": percent(found.control),
            "difference": percent(found.difference) if metrics.claims_excess else "not claimed",
            "flags": found.flags,
            "true": found.true,
            "own": found.own,
            "precision": percent(found.precision),
        }
        for found in metrics.caption_flags
        if found.threshold is not None
    ]


def caption_flag_refusals(metrics: Metrics) -> list[str]:
    """Say for which attacks and seeds no threshold of flags can be set, and why."""
    return [f"{found.attack}, seed {found.seed}: {found.refused}" for found in metrics.caption_flags if found.refused]


CAPTION_FLAG_NOTE = (
    "Percent of captions, by family, called memorised at a threshold that flags at most 1 in 50 of one half of the "
    "held-out captions; the other half is reported. A flag is true if its image is any training image, within the "
    "threshold of own images; own: the caption's."
)
"""What a table of flags shows."""


def caption_flag_table(metrics: Metrics, width: int | None = None) -> str:
    """Return the flags under a title, and what was refused."""
    rows = caption_flag_rows(metrics)
    shown = [table(rows, width, keys=2, plain=True)] if rows else []
    refused = [wrapped(f"refused: {line}", width) for line in caption_flag_refusals(metrics)]
    return "\n".join(["captions called memorised", wrapped(CAPTION_FLAG_NOTE, width), *shown, *refused])


def exposure_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack that replays canaries, seed and number of copies, then one of the difference."""
    return [
        row
        for found in metrics.exposures
        for row in [
            *(
                {
                    "attack": found.attack,
                    "seed": found.seed,
                    "copies": str(each.copies) if each.copies else "never planted",
                    "strings": each.strings,
                    "log2 rank": f"{each.log2_rank:.2f}",
                    "exposure, bits": _bits(each.exposure),
                }
                for each in found.by_copies
            ),
            {
                "attack": found.attack,
                "seed": found.seed,
                "copies": "planted less never planted",
                "strings": sum(each.strings for each in found.by_copies if each.copies),
                "log2 rank": "-",
                "exposure, bits": f"{_bits(found.difference)}"
                + (f", p = {found.p:.2g}" if found.p is not None else ""),
            },
        ]
    ]


def _bits(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


EXPOSURE_NOTE = (
    "How near the images of a planted string come to its own image, ranked among strings that were never planted; "
    "without a leak the mean is 1.44 bits."
)
"""What a table of exposures shows."""


def _exposure_words(found: Exposure) -> str:
    """Say what an attack's exposures are, without a full stop."""
    said = f"planted strings have an exposure of {_bits(found.planted)} bits among {found.others:,} never planted"
    if found.difference is not None and found.p is not None:
        said += f", {_bits(found.difference)} more than matched strings (p = {found.p:.2g})"
    return said


def exposure_table(metrics: Metrics, width: int | None = None) -> str:
    """Return the exposures under a title."""
    rows = table(exposure_rows(metrics), width, keys=3, plain=True)
    return "\n".join(["exposure of canaries", wrapped(EXPOSURE_NOTE, width), rows])


def _link_words(found: OwnImages, *, claimed: bool) -> str:
    """Say what an attack's own-image rates are, without a full stop."""
    said = f"a caption's own image is nearest for {percent(found.training)} % of training captions"
    if found.control is not None and found.difference is not None and found.p is not None:
        said += f", {percent(found.control)} % of the control's"
        if claimed:
            said += f", a difference of {percent(found.difference)} (p = {found.p:.2g})"
    return f"{said}: a link, and within {found.threshold:.3g} an extraction, {percent(found.extracted)} %"


def calibrated_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per attack, seed, measure and rate q that the run supports."""
    return [
        {
            "attack": result.attack,
            "seed": result.seed,
            "measure": result.measure,
            "q": f"{found.q:g}",
            "threshold": f"{found.tau:z.4f} [{found.tau_low:z.4f}, {found.tau_high:z.4f}]",
            "AMS": percent(found.training),
            "held-out AMS": percent(found.held_out),
            "excess": percent(found.excess),
        }
        for result in metrics.results
        for found in result.calibrated
        if found.training and found.held_out and found.excess
    ]


def calibrated_table(metrics: Metrics, measures: Sequence[str], width: int | None = None) -> str:
    """Return rates of these measures at calibrated thresholds, and why the other thresholds were refused."""
    rows = [row for row in calibrated_rows(metrics) if row["measure"] in measures]
    refused = {found.q: found.refused for r in metrics.results for found in r.calibrated if found.refused}
    parts = [wrapped("thresholds calibrated so that chance hits training images at the rate q", width)]
    if rows:
        parts.append(table(rows, width, keys=4, plain=True))
    if refused:
        likewise = " (smaller q likewise)" if len(refused) > 1 else ""
        parts.append(wrapped(f"refused: {refused[max(refused)]}{likewise}", width))
    return "\n".join(parts)


def reach_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per measure and band: which images would be seen if the model gave them away whole.

    Nothing where every copy would be an exact one, and where no reach exists; `reach_note` says which of both.
    """
    return [
        {
            "measure": found.measure,
            "band": found.band,
            "training images": percent(found.training),
            "held-out images": percent(found.held_out),
            "looked at": found.training.images,
        }
        for found in metrics.reach
        if found.how in ("round trip", "output defence") and found.training
    ]


def reach_note(metrics: Metrics) -> str:
    """Say in a sentence what the reach is one of, or why there is none; nothing where every copy would be exact."""
    first = metrics.reach[0] if metrics.reach else None
    if first is None or first.how == "identity":
        return ""
    if first.how == "none":
        return f"How much of a perfect copy would be seen is not known: {first.reason}."
    return (
        f"Percent of reference images that are found again once they went {first.reason}, as every candidate does. "
        f"That is what a perfect copier would score."
    )


def reach_table(metrics: Metrics, measures: Sequence[str], width: int | None = None) -> str:
    """Return the reach by these measures under a title; nothing where every copy would be an exact one."""
    note = reach_note(metrics)
    if not note:
        return ""
    rows = [row for row in reach_rows(metrics) if row["measure"] in measures]
    shown = [table(rows, width, keys=2, plain=True)] if rows else []
    return "\n".join(["reach: what the measure can see", wrapped(note, width), *shown])


def comparison_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per comparison of two attacks."""
    return [
        {
            "attack": found.first,
            "against": found.second,
            "seed": found.seed,
            "band": found.band,
            f"difference of {'AMS' if metrics.control == 'none' else 'excess'}": percent(found.difference),
            "ratio": _ratio(found.ratio),
            "p (Holm)": f"{found.p:.2g}",
            "verdict": found.verdict,
            "smallest seen": f"{100 * found.smallest_difference:.2f}",
        }
        for found in metrics.comparisons
    ]


def ratio_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per comparison of two attacks over their preparations."""
    what = "AMS" if metrics.control == "none" else "excess"
    return [
        {
            "attack": found.first,
            "against": found.second,
            "preparations": "-" if found.preparations is None else str(found.preparations),
            "band": found.band,
            what: percent(found.first_rate),
            f"{what} of the other": percent(found.second_rate),
            "ratio": _ratio(found.ratio),
            "p (Holm)": "-" if found.ratio is None else f"{found.p:.2g}",
            "verdict": found.verdict,
            "between preparations": "-" if found.spread is None else f"x {math.exp(found.spread):.2f}",
        }
        for found in metrics.attack_ratios
    ]


def _ratio(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def cost_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return one row per attack and seed: denoiser calls, denoiser-equivalents, and hits at equal cost."""
    return [
        {
            "attack": cost.attack,
            "seed": cost.seed,
            **{f"NFE {phase}": f"{cost.nfe.get(phase, 0):,}" for phase in ("prepare", "generate")},
            "denoiser-equivalents": f"{cost.denoiser_equivalents:z,.0f}",
            "hits per 1,000 of them": _or_dash(cost.hits_per_1000_equivalents),
        }
        for cost in costs
    ]


def effort_rows(efforts: Sequence[Effort]) -> list[dict[str, Any]]:
    """Return one row per band, currency, seed, budget and attack: what it finds at equal effort."""
    return [
        {
            "budget": f"{found.budget:z,.0f} {found.currency} (all of {found.budget_of})",
            **({"band": found.band} if found.band else {}),
            "seed": found.seed,
            "attack": found.attack,
            "candidates": f"{found.candidates:,}",
            "synthetic images": f"{found.synthetic_images:,}",
            "hits": _expected(found.hits),
            "held-out hits": _expected(found.held_out_hits),
            "unique groups": _expected(found.groups),
            "which is": found.kind if found.groups else "refused",
        }
        for found in efforts
    ]


def _expected(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"


CAPTIONS = {"caption_accuracy": "shows its caption (training)", "held_out_caption_accuracy": "(held-out)"}
"""Columns of how often an image is taken for what its caption asks for, by the caption's side."""


def quality_rows(quality: dict[str, Any]) -> list[dict[str, str]]:
    """Return one row per unit, real training images first; nothing where quality was not assessed."""
    if "skipped" in quality:
        return []
    encoded = any("frechet_distance_latents" in figures for figures in quality.values())
    asked = any(set(CAPTIONS) & set(figures) for figures in quality.values())
    return [
        {
            "images": name,
            f"Frechet distance to {_part(figures)} (pixels)": _number(figures.get("frechet_distance")),
            **({"the same in latents": _number(figures.get("frechet_distance_latents"))} if encoded else {}),
            "precision": _number(figures.get("precision")),
            "recall": _number(figures.get("recall")),
            "pairwise distance": _number(figures.get("diversity")),
            f"label accuracy on {_part(figures)}": _number(figures.get("label_accuracy")),
            **({column: _number(figures.get(key)) for key, column in CAPTIONS.items()} if asked else {}),
        }
        for name, figures in sorted(quality.items(), key=lambda item: (item[0] != "training images", item[0]))
    ]


def copying_rows(copying: dict[str, Any] | None) -> list[dict[str, str]]:
    """Return one row per unit, then one per share of planted copies; nothing where nobody asked for copying.json."""
    if copying is None:
        return []
    planted = [
        {**row, "name": f"pool images with {100 * row['share']:g} % exact training copies"}
        for row in copying["sensitivity"] or []
    ]
    return [
        {
            "images": row["name"],
            "AuthPct": f"{row['auth_pct']:.1f}",
            "C_T": "-" if row["c_t"] is None else f"{row['c_t']:+z.2f}",
            "images used": f"{row['generated']:,}",
        }
        for row in [*({**row, "name": name} for name, row in copying["units"].items()), *planted]
    ]


def copying_table(copying: dict[str, Any], width: int | None = None) -> str:
    """Return the global figures of copying as a table."""
    return table(copying_rows(copying), width, plain=True)


_PARTS = {"held_out": "held-out", "pool": "pool", "tuning": "tuning part"}


def _part(figures: dict[str, Any]) -> str:
    """Name the real images that quality was measured against; run folders of before this was a choice do not say."""
    return _PARTS[figures.get("against", "held_out")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def tuning_table(curve: Curve, width: int | None = None) -> str:
    """Return a tuning curve as a table, and the choice in words."""
    rows = [
        {
            **point.values,
            "AMS": percent(point.result.training.ams),
            "held-out AMS": percent(point.result.held_out.ams if point.result.held_out else None),
            "excess": percent(point.result.excess),
            "unique groups": point.result.training.groups,
        }
        for point in curve.points
    ]
    band = curve.points[0].result.band
    behind = f" behind {' and '.join(curve.defences)}" if curve.defences else ""
    head = f"{curve.attack} on {curve.on}{behind}, {curve.candidates:,} candidates, {curve.measure}, band {band}"
    chosen = ", ".join(f"{key} = {value}" for key, value in curve.best().values.items())
    shown = table(rows, width, keys=len(curve.points[0].values), plain=True)
    what = "excess" if curve.best().result.excess else "AMS (no held-out images)"
    return "\n".join([wrapped(head, width), shown, wrapped(f"highest {what} at {chosen}", width)])


def percent(rate: Estimate | None) -> str:
    """Return a rate or difference and its interval in percent, "-" without one."""
    if rate is None:
        return "-"
    if isinstance(rate, Rate) and rate.one_sided:
        return f"{100 * rate.value:z.2f} [at least {100 * rate.low:z.2f}]"
    return f"{100 * rate.value:z.2f} [{100 * rate.low:z.2f}, {100 * rate.high:z.2f}]"


def verdicts(metrics: Metrics) -> list[str]:
    """Say in plain words what each attack shows, over all nested bands of the measure that decides.

    Own images come first, a line for each attack that replays captions and seed. Without a fair control there are rates
    only, a line for each attack and seed.
    """
    links = [
        f"{found.attack}, seed {found.seed}: {_link_words(found, claimed=metrics.claims_excess)}."
        for found in metrics.own_images
    ]
    links += [f"{found.attack}, seed {found.seed}: {_exposure_words(found)}." for found in metrics.exposures]
    if metrics.claims_excess:
        return links + [
            f"{_who(claim)}: {claim_words(claim, metrics.control)}{claim.remark and f'; {claim.remark}'}."
            for claim in metrics.claims
        ]
    if not metrics.results:
        return []
    headline = metrics.results[0].measure
    lines = links
    for result in by_measure(metrics)[headline]:
        who = f"{result.attack}, seed {result.seed}"
        if not result.bands:
            lines.append(f"{who}: {headline} has no fixed bands, so no verdict.")
            continue
        lines.append(f"{who}, {result.candidates:,} candidates: {_raw_verdict(result)}.")
    return lines


def claim_words(claim: LeakClaim, control: str) -> str:
    """Say what a claim says, without a full stop."""
    over = "a reference model" if control == "reference-model" else "held-out images"
    closest, widest = claim.bands[0], claim.bands[-1]
    if claim.says == "excess":
        named = [band for band in claim.bands if band.band in (claim.closest, claim.widest)]
        shown = " and ".join(f"{band.band} (p = {band.p:.2g}, at least {100 * band.at_least:.2f} %)" for band in named)
        which = f"; {len(claim.memorised)} groups stand out one by one" if claim.memorised else ""
        return f"finds training images; excess over {over} in band{'s' if len(named) > 1 else ''} {shown}{which}"
    if claim.says == "control does not fit":
        return f"is nearer to {over} than to training images, which no leak explains: the control does not fit"
    unseen = f"a leak of up to {100 * widest.at_most:.2f} % of the candidates could have gone unseen"
    if closest is not widest:
        unseen += f", up to {100 * closest.at_most:.2f} % in band {closest.band}"
    if claim.says == "cannot see":
        return (
            f"cannot see a leak: most training images are not found again after the model's own round trip, so no "
            f"excess over {over} says nothing; take a roundtrip measure"
        )
    if claim.says == "unlike images":
        return (
            "cannot tell: its images are not of the pair's kind, so that finding nothing says nothing; is the model "
            "read as it was trained?"
        )
    if claim.says == "cannot tell":
        least = "no number of groups is" if claim.least_groups is None else f"{claim.least_groups} hit groups are"
        return (
            f"cannot tell by this control: {claim.groups_hit} groups are hit, and {least} needed before its test can "
            f"speak; use more held-out images or a reference model ({unseen})"
        )
    return f"shows no excess over {over}; {unseen}"


def _who(claim: LeakClaim) -> str:
    if len(claim.seeds) == 1:
        return f"{claim.attack}, seed {claim.seeds[0]}, {claim.candidates:,} candidates of this preparation"
    return f"{claim.attack}, {len(claim.seeds)} preparations, {claim.candidates:,} candidates"


def _raw_verdict(result: Result) -> str:
    """Say what was hit where no excess is claimed, in the closest and in the widest band."""
    shown = [result.bands[0], *result.bands[-1:]] if len(result.bands) > 1 else result.bands
    hits = " and ".join(f"{percent(band.training.ams)} % in band {band.band}" for band in shown)
    if result.bands[0].held_out is None:
        return f"hits training images, {hits}; raw rates, no control: how many are chance hits is not known"
    held_out = " and ".join(f"{percent(band.held_out.ams)} %" for band in shown if band.held_out)
    return f"hits training images, {hits}, held-out ones {held_out}; a surrogate control: no excess is claimed"
