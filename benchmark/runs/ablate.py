"""`sidebench ablate`: an attack, and the same attack with one thing taken away at a time, in one table.

Each ablation is a unit of one run (`side--random-labels`), so all of them start from the same noise and the same
synthetic images, and the run's report shows each with its diagnostics.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..contracts import Progress
from ..data.pair import Pair
from ..errors import BadSetting
from ..progress import silent
from ..registry import ABLATED, find
from ..results.schema import AttackRatio
from .carry_out import carry_out
from .plan import plan_run
from .plugins import make_attacks
from .runner import RunResult

if TYPE_CHECKING:
    from ..results.run_folder import RunFolder
    from ..results.schema import Metrics, Result
    from .engine import Engine


class AblationRow(NamedTuple):
    """One attack of the table, its seeds averaged."""

    attack: str
    ams: float
    held_out: float | None
    """Rates in 0 .. 1, of the headline measure's closest band."""
    excess: float | None
    groups: float
    equivalents: float
    """Denoiser-equivalents."""
    difference: str
    """From the whole attack. One seed: of its excess (without control: AMS), in percentage points; more of them: its
    excess as a multiple of the whole attack's, over the preparations."""
    verdict: str
    same_images: bool
    """Every candidate is carlini-uncond's, image for image."""


def ablate(
    pair: Pair,
    attack: str,
    *,
    tier: str | None = None,
    candidates: int | None = None,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    out: str | Path = "ablations",
    progress: Progress = silent,
    engine: "Engine | None" = None,
) -> tuple[RunResult, list[AblationRow]]:
    """Run an attack and its ablations, write the report, and return the run with a row for each of them.

    There are no rows where nothing has results.

    Raises:
        BadSetting: the attack names no ablations, or what `plan_run` and `execute` raise.
    """
    names = ablations_of(pair, attack, settings or {})
    plan = plan_run(
        pair,
        attacks=names,
        tier=tier,
        candidates=candidates,
        seeds=seeds,
        settings=settings,
        device=device,
        out=out,
        progress=progress,
    )
    result = carry_out(plan, progress, engine)
    rows = ablation_rows(result.folder, result.metrics, attack, names) if result.metrics is not None else []
    return result, rows


def ablations_of(pair: Pair, attack: str, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what to run: what the attack is held against, the attack, and its ablations, named as `attack` is.

    Left out are those that change nothing under these settings, and those of an oracle where the pair has no labels.

    Raises:
        BadSetting: the attack names no ablations.
    """
    found = find("attack", attack)
    if not found.ablations:
        raise BadSetting(f"{attack} names no ablations")
    labelled = pair.data.source == "scikit-learn-digits" or pair.data.labels is not None
    whole = make_attacks(pair, [attack], settings)[0].settings
    names = []
    for name, change in found.ablations.items():
        full = f"{attack}{ABLATED}{name}"
        if make_attacks(pair, [full], settings)[0].settings != whole and (labelled or change.access != "oracle"):
            names.append(full)
    return [*found.ablated_against, attack, *names]


def ablation_rows(folder: "RunFolder", metrics: "Metrics", attack: str, names: Sequence[str]) -> list[AblationRow]:
    """Read the rows of these attacks, named as they were run, from a finished run, which may hold others too."""
    headline, attack = metrics.results[0].measure, find("attack", attack).name
    rows = []
    for name in (find("attack", each).name for each in names):
        results = [r for r in metrics.results if r.attack == name and r.measure == headline and r.bands]
        if not results:
            continue
        bands = [result.bands[0] for result in results]
        costs = [cost.denoiser_equivalents for cost in metrics.costs if cost.attack == name]
        difference, verdict = _against(metrics, name, attack)
        rows.append(
            AblationRow(
                attack=name,
                ams=_mean([band.training.ams.value for band in bands]) or 0.0,
                held_out=_mean([band.held_out.ams.value for band in bands if band.held_out]),
                excess=_mean([band.excess.value for band in bands if band.excess]),
                groups=_mean([band.training.groups for band in bands]) or 0.0,
                equivalents=_mean(costs) or 0.0,
                difference=difference,
                verdict=verdict,
                same_images=name != "carlini-uncond" and _same(folder, name, "carlini-uncond", results),
            )
        )
    return rows


def as_text(rows: Sequence[AblationRow], metrics: "Metrics") -> str:
    """Return the table, and what it was measured on."""
    from tabulate import tabulate

    table = [
        {
            "attack": row.attack,
            "AMS, %": _percent(row.ams),
            "held-out AMS, %": _percent(row.held_out),
            "excess, %": _percent(row.excess),
            "unique groups": f"{row.groups:.4g}",
            "equivalents": f"{row.equivalents:,.0f}",
            _compared_by(metrics): row.difference,
            "verdict": row.verdict + ("; carlini-uncond image for image" if row.same_images else ""),
        }
        for row in rows
    ]
    result = metrics.results[0]
    band = result.bands[0].band if result.bands else "-"
    head = f"{metrics.pair}, {result.candidates:,} candidates per seed, {result.measure}, band {band}"
    return head + "\n" + tabulate(table, headers="keys", tablefmt="simple", disable_numparse=True)


def _compared_by(metrics: "Metrics") -> str:
    return "ratio over preparations" if metrics.attack_ratios else "difference, points"


def _against(metrics: "Metrics", name: str, attack: str) -> tuple[str, str]:
    """Return how `name` compares with the whole attack and what may be said, over preparations where there are more."""
    compared = metrics.attack_ratios or metrics.comparisons
    for found in compared:
        if {found.first, found.second} != {name, attack} or found.band != compared[0].band:
            continue
        turned = found.first == attack
        words = _turned(found.verdict) if turned else found.verdict
        if isinstance(found, AttackRatio):
            return _ratio(found, turned=turned), words
        ends = [100 * part for part in (found.difference.value, found.difference.low, found.difference.high)]
        value, low, high = (-ends[0], -ends[2], -ends[1]) if turned else ends
        return f"{value:+.2f} [{low:.2f}, {high:.2f}]", words
    return "-", "-"


def _ratio(found: AttackRatio, *, turned: bool) -> str:
    """Return a ratio with its interval and the number of preparations, of the second attack to the first if turned."""
    if found.ratio is None or (turned and found.ratio.low <= 0):
        return "-"
    ends = [found.ratio.value, found.ratio.low, found.ratio.high]
    value, low, high = (1 / ends[0], 1 / ends[2], 1 / ends[1]) if turned else ends
    over = "" if found.preparations is None else f", {found.preparations} preparations"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]{over}"


def _turned(verdict: str) -> str:
    return verdict.replace("more", "\0").replace("fewer", "more").replace("\0", "fewer")


def _same(folder: "RunFolder", name: str, other: str, results: Sequence["Result"]) -> bool:
    """Whether two attacks made the same images under every seed."""
    import torch

    from ..files import read_json
    from ..results.run_folder import asked_candidates, unit_name
    from ..results.shards import missing

    count = asked_candidates(read_json(folder.manifest_file))
    for result in results:
        seed = result.seed
        pair = [unit_name(each, seed) for each in (name, other)]
        if any(missing(folder.image_shards(unit), count, count) for unit in pair):
            return False
        first, second = (torch.cat(list(folder.candidate_images(unit, count))) for unit in pair)
        if not torch.equal(first, second):
            return False
    return True


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
