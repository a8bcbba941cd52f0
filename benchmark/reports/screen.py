"""What a run prints first: the answer, a row for each attack, and where the rest is."""

import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeVar

from ..files import read_json
from ..protocol import CONFIDENCE
from ..results.run_folder import RunFolder
from ..results.schema import AttackRatio, BandResult, Compared, Exposure, LeakClaim, Metrics, OwnImages, Result
from .tables import claim_words, model_line, percent, probe_flags
from .verdict import headline

WIDTH = 100
LEAST_WIDTH = 60
ROWS = 8
"""Attacks that are shown."""

BRIEF = 5
"""Attacks that a notebook shows where it shows ten lines."""

FLAGS = 3
"""Flags that are shown; the others stand among all tables."""

LINKS = 2
"""Attacks whose link between a caption and its own image is shown, for the first seed."""

PLAIN, SIDE = "carlini-uncond", "side"
"""Attacks that others are compared with, the first of them that a run has."""

ANSWERS = {
    "excess": "LEAKS",
    "control does not fit": "THE CONTROL DOES NOT FIT",
    "cannot see": "CANNOT SEE",
    "unlike images": "CANNOT TELL",
    "cannot tell": "CANNOT TELL",
    "none seen": "NO LEAK SEEN",
}
"""By what claims say; where they differ, the first of them is the run's."""
NO_VERDICT = "NO VERDICT"

OfUnit = TypeVar("OfUnit", OwnImages, Exposure)


class Column(NamedTuple):
    """A column of the table of attacks; those of the highest `drop` go first on a narrow terminal."""

    title: str
    cell: Callable[[Metrics, list[Result]], str]
    drop: int


def first_screen(folder: RunFolder, metrics: Metrics, seconds: float | None = None, width: int = WIDTH) -> str:
    """Return at most 25 lines: what the run says, by attack, and where all of it stands.

    Args:
        folder: For the flags of its probes, and its path.
        metrics: Of this folder.
        seconds: What preparing and generating took, whenever that was: no time on the clock of this call; None is not
            said.
        width: Letters in a line; columns that do not fit are left out, the least important first.
    """
    width = max(width, LEAST_WIDTH)
    attacks = by_attack(metrics)
    lines = [_title(metrics, attacks, seconds, width)]
    lines += [line for line in [model_line(folder)] if line]
    lines += _wrapped(answer(metrics), width, most=4)
    lines += [line for link in _links(metrics) for line in _wrapped(link, width, most=2)]
    lines += [f"  {line}" for line in _table(metrics, attacks, width - 2)]
    for sentence in (_legend(metrics), *compared(metrics, attacks), _one_preparation(metrics)):
        lines += _wrapped(sentence, width)
    flags = [*metrics.flags, *probe_flags(folder)]
    lines += [line for flag in flags[:FLAGS] for line in _wrapped(f"flag: {flag}", width, most=2)]
    if len(flags) > FLAGS:
        lines.append(f"  {len(flags) - FLAGS} more flags among all tables")
    lines.append(f"  report: {folder.report_file}")
    lines.append(f"  all tables: sidebench show {folder.path} --all")
    return "\n".join(lines)


def brief(folder: RunFolder, metrics: Metrics, width: int = WIDTH) -> str:
    """Return at most ten lines: the answer, the first attacks, and where the report is."""
    attacks = by_attack(metrics)
    rows = _table(metrics, attacks, width - 2)
    left_out = len(attacks) - BRIEF
    lines = [_title(metrics, attacks, None, width), *_wrapped(answer(metrics), width, most=2)]
    lines += [f"  {row}" for row in rows[: BRIEF + 1]]
    lines += [f"  and {left_out} more: .table()"] if left_out > 0 else []
    return "\n".join([*lines, f"  report: {folder.report_file}"])


def seconds_of(folder: RunFolder) -> float:
    """Return what preparing and generating took, whenever that was and on whatever machine."""
    units = read_json(folder.path / "costs.json")["units"].values()
    return float(sum(unit.get(f"{phase}_seconds", 0.0) for unit in units for phase in ("prepare", "generate")))


def terminal_width() -> int:
    """Return how many letters of a line the reader sees, `WIDTH` at most, which is also that of a file or a pipe."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def answer(metrics: Metrics) -> str:
    """Return the answer in a few words, and the figures that it rests on."""
    claims, bands = metrics.claims, [result for result in metrics.results if result.bands]
    if not bands or not metrics.claims_excess or not claims:
        return f"{NO_VERDICT}: {_first_sentence(headline(metrics).lead)}"
    says = min((claim.says for claim in claims), key=list(ANSWERS).index)
    mine = [claim for claim in claims if claim.says == says]
    if says == "excess":
        return f"{ANSWERS[says]}  {_leak(metrics, mine)}"
    if says == "none seen":
        return _by_captions(metrics) or f"{ANSWERS[says]}  {_clear(claims)}"
    words = f"{mine[0].attack} {claim_words(mine[0], metrics.control)}"
    return f"{ANSWERS[says]}  {words.replace(' cannot tell', '', 1)}"


def _leak(metrics: Metrics, claims: Sequence[LeakClaim]) -> str:
    """Say what the attack that finds most in its closest band finds, there and in the widest band with an excess.

    Unique images are those of the closest band, as in the table.
    """
    by_claim = {
        claim.attack: [r for r in metrics.results if (r.attack, r.measure) == (claim.attack, claim.measure)]
        for claim in claims
    }
    # Attacks with an excess in the closest band before those without one, then by the rate that the table shows.
    shown = max(
        claims, key=lambda claim: (claim.closest == claim.bands[0].band, _found_closest(by_claim[claim.attack]))
    )
    own = by_claim[shown.attack]
    names = list(dict.fromkeys(name for name in (shown.closest, shown.widest) if name))
    titles = {
        shown.bands[0].band: "close copies",
        **({shown.bands[-1].band: "in the widest band"} if names[1:] else {}),
    }
    bands = {name: [_band(result, name) for result in own] for name in names}
    said = [
        f"{copies_rate(found):.1f} % {titles.get(name, f'in band {name}')}{_beside(found)}"
        for name, found in bands.items()
    ]
    groups = unique_images(bands[names[0]])
    a_seed = " for each seed" if len(own) > 1 else ""
    return f"{', '.join(said)}; {groups} unique training images{a_seed} ({shown.attack})"


def _found_closest(results: Sequence[Result]) -> float:
    """Return the excess in the closest band, the mean over seeds."""
    return fmean(0.0 if result.bands[0].excess is None else result.bands[0].excess.value for result in results)


def _band(result: Result, name: str) -> BandResult:
    return next(band for band in result.bands if band.band == name)


def copies_rate(bands: Sequence[BandResult]) -> float:
    """Return the share of candidates in a band, in percent; the mean over seeds."""
    return 100 * fmean(band.training.ams.value for band in bands)


def unique_images(bands: Sequence[BandResult]) -> str:
    """Return how many training images are found in a band, duplicates once; the mean over seeds."""
    return f"{fmean(band.training.groups for band in bands):,.0f}"


def control_rate(bands: Sequence[BandResult]) -> float | None:
    """Return the same of the control: held-out images, or the reference model; None without one."""
    sides = [band.held_out or band.reference for band in bands]
    known = [side.ams.value for side in sides if side is not None]
    return 100 * fmean(known) if known else None


def _beside(bands: Sequence[BandResult]) -> str:
    """Return the control's rate in brackets."""
    rate = control_rate(bands)
    return "" if rate is None else f" (control: {rate:.1f} %)"


def _clear(claims: Sequence[LeakClaim]) -> str:
    widest = max(claim.bands[-1].at_most for claim in claims)
    return f"a leak of up to {100 * widest:.1f} % of the candidates could have gone unseen"


def _by_captions(metrics: Metrics) -> str:
    """Return the answer where no band has an excess, but captions or planted strings say more; else nothing."""
    level = 1 - CONFIDENCE
    if any(found.p is not None and found.p < level for found in metrics.exposures):
        return "LEAKS  strings that were planted in training; see their exposure"
    if metrics.claims_excess and any(found.p is not None and found.p < level for found in metrics.own_images):
        return (
            "LINKED  training captions lead to their own images more often than held-out ones; no extraction was seen"
        )
    return ""


def by_attack(metrics: Metrics) -> dict[str, list[Result]]:
    """Return the results of the first measure by attack, one per seed."""
    first, found = metrics.results[0].measure if metrics.results else "", dict[str, list[Result]]()
    for result in metrics.results:
        if result.measure == first:
            found.setdefault(result.attack, []).append(result)
    return found


def _title(metrics: Metrics, attacks: dict[str, list[Result]], seconds: float | None, width: int) -> str:
    results = next(iter(attacks.values()), [])
    seeds = sorted({result.seed for own in attacks.values() for result in own})
    named = ", ".join(map(str, seeds)) if len(seeds) < 6 else f"{seeds[0]} to {seeds[-1]}"
    parts = [
        f"{len(attacks)} attack{'' if len(attacks) == 1 else 's'}",
        *([f"{results[0].candidates:,} images each"] if results else []),
        f"seed{'' if len(seeds) == 1 else 's'} {named}",
        *([f"behind {', '.join(metrics.defences)}"] if metrics.defences else []),
    ]
    left = f"{metrics.pair}   {', '.join(parts)}"
    right = "" if seconds is None else f"attacks took {seconds:,.0f} s"
    return f"{left}{right:>{max(0, width - len(left))}}".rstrip() if len(left) + len(right) < width else left


def _links(metrics: Metrics) -> list[str]:
    """Say what replayed captions and planted strings show."""
    seeds = len({result.seed for result in metrics.results}) > 1
    links = [
        f"own image nearest ({_whose(found, seeds)}): {percent(found.training)} % of training captions"
        + (f", {percent(found.control)} % of the control's" if found.control is not None else "")
        + f"; extracted too: {percent(found.extracted)} %"
        for found in _one_each(metrics.own_images)
    ]
    exposed = [
        f"exposure of planted strings ({_whose(found, seeds)}): {found.planted.value:.1f} of "
        f"{math.log2(found.others + 1):.1f} bits, 1.4 without a leak"
        for found in _one_each(metrics.exposures)
    ]
    return [*links, *exposed]


def _one_each(found: Sequence[OfUnit]) -> list[OfUnit]:
    """Return the first attacks' figures, each for its first seed."""
    first: dict[str, OfUnit] = {}
    for each in found:
        first.setdefault(each.attack, each)
    return list(first.values())[:LINKS]


def _whose(found: OwnImages | Exposure, seeds: bool) -> str:
    return f"{found.attack}, seed {found.seed}" if seeds else found.attack


# ---- The table --------------------------------------------------------------------------------------


def _table(metrics: Metrics, attacks: dict[str, list[Result]], width: int) -> list[str]:
    """Return the rows of the attacks, with as many columns as fit."""
    from tabulate import tabulate

    if not any(result.bands for own in attacks.values() for result in own):
        return []
    columns = [column for column in COLUMNS if any(column.cell(metrics, own) != "-" for own in attacks.values())]
    while True:
        rows = [
            {"attack": name, **{_titled(column, metrics): column.cell(metrics, own) for column in columns}}
            for name, own in list(attacks.items())[:ROWS]
        ]
        aligned = ["left", *["right"] * len(columns)]
        text = tabulate(rows, headers="keys", tablefmt="plain", disable_numparse=True, colalign=aligned)
        lines = [line.rstrip() for line in text.splitlines()]
        if max(map(len, lines)) <= width or len(columns) == 1:
            return [*lines, *([f"and {len(attacks) - ROWS} more"] if len(attacks) > ROWS else [])]
        columns.remove(max(columns, key=lambda column: column.drop))


def _titled(column: Column, metrics: Metrics) -> str:
    return column.title.replace("held-out", "reference") if metrics.control == "reference-model" else column.title


def _copies(metrics: Metrics, own: list[Result]) -> str:
    return f"{copies_rate([result.bands[0] for result in own]):z.1f}"


def _held_out(metrics: Metrics, own: list[Result]) -> str:
    rate = control_rate([result.bands[0] for result in own])
    return "-" if rate is None else f"{rate:z.1f}"


def excess_of(metrics: Metrics, own: list[Result]) -> tuple[float, float | None, float | None] | None:
    """Return the excess in the closest band and the ends of its interval, None where they are not known.

    Of several preparations it is over these, as far as that can be said. None without a control.
    """
    attack, measure, band = own[0].attack, own[0].measure, own[0].bands[0].band
    found = [result.bands[0].excess for result in own]
    known = [excess for excess in found if excess is not None]
    if len(known) < 2:
        return (known[0].value, known[0].low, known[0].high) if known else None
    for ratio in metrics.attack_ratios:
        rates = {ratio.first: ratio.first_rate, ratio.second: ratio.second_rate}
        if (ratio.band, ratio.measure) == (band, measure) and (rate := rates.get(attack)) is not None:
            return rate.value, rate.low, rate.high
    value = fmean(excess.value for excess in known)
    claims = [claim for claim in metrics.claims if (claim.attack, claim.measure) == (attack, measure)]
    if not claims or claims[0].bands[0].band != band:
        return value, None, None
    return value, claims[0].bands[0].at_least, claims[0].bands[0].at_most


def _excess(metrics: Metrics, own: list[Result]) -> str:
    found = excess_of(metrics, own)
    if found is None:
        return "-"
    value, low, high = found
    if low is None or high is None:
        return f"{100 * value:z.1f}"
    return f"{100 * value:z.1f} [{100 * low:z.1f}, {100 * high:z.1f}]"


def _unique(metrics: Metrics, own: list[Result]) -> str:
    return unique_images([result.bands[0] for result in own])


def _per_call(metrics: Metrics, own: list[Result]) -> str:
    rate = per_thousand(metrics, own[0].attack)
    return "-" if rate is None else f"{rate:.2f}"


def per_thousand(metrics: Metrics, attack: str) -> float | None:
    """Return an attack's hits for 1,000 denoiser calls, whatever else it does counted in calls; the mean over seeds."""
    known = [cost.hits_per_1000_equivalents for cost in metrics.costs if cost.attack == attack]
    rates = [rate for rate in known if rate is not None]
    return fmean(rates) if rates else None


COLUMNS = (
    Column("copies %", _copies, 0),
    Column("held-out %", _held_out, 2),
    Column("excess %, 95 %", _excess, 1),
    Column("unique", _unique, 3),
    Column("per 1,000 NFE", _per_call, 4),
)


# ---- Sentences --------------------------------------------------------------------------------------


def _legend(metrics: Metrics) -> str:
    first = next((result for result in metrics.results if result.bands), None)
    if first is None:
        return ""
    control = "a reference model's" if metrics.control == "reference-model" else "held-out"
    excess = f"; excess: over {control} ones" if metrics.claims_excess else ""
    unique = "unique: training images, duplicates once"
    if len({result.seed for result in metrics.results}) > 1:
        unique += "; all of them means over seeds"
    return f"copies: band {first.bands[0].band} of {first.measure}{excess}; {unique}"


def compared(metrics: Metrics, attacks: dict[str, list[Result]]) -> list[str]:
    """Say which attacks find more than plain sampling, and which finds most for its cost.

    In a run without plain sampling it is SIDE that the others are compared with, or else the first attack.
    """
    if len(attacks) < 2:
        return []
    reference = SIDE if SIDE in attacks else next(iter(attacks))
    said = [_against_plain(metrics) if PLAIN in attacks else _against_reference(metrics, reference)]
    rates = {name: rate for name in attacks if (rate := per_thousand(metrics, name))}
    if rates and any(claim.says == "excess" for claim in metrics.claims):
        most = f"{max(rates.values()):.2f}"
        best = _listed([_named(name) for name, rate in rates.items() if f"{rate:.2f}" == most])
        said.append(f"At equal cost the highest rate is that of {best}: {most} hits per 1,000 denoiser calls (NFE).")
    return [line for line in said if line]


def _against_plain(metrics: Metrics) -> str:
    """Say what the tests against plain sampling say, in the closest band."""
    pairs = _pairs_with(metrics, PLAIN)
    if not pairs:
        return ""
    if all(found.verdict == "no ratio" for found in pairs):
        return "No attack can be compared with plain sampling, whose excess may be 0."
    more, fewer = _found(pairs, PLAIN, "more"), _found(pairs, PLAIN, "fewer")
    if not more:
        unseen = f"No attack is seen to beat plain sampling at equal candidates{_would_show(metrics, pairs)}"
        return f"{unseen}; {fewer}." if fewer else f"{unseen}."
    return f"{more}; {fewer}, at equal candidates." if fewer else f"{more} at equal candidates."


def _against_reference(metrics: Metrics, reference: str) -> str:
    """Say, of a run without plain sampling, what the tests against one of its attacks say, in the closest band."""
    pairs = _pairs_with(metrics, reference)
    if not pairs:
        return ""
    if all(found.verdict == "no ratio" for found in pairs):
        return f"No attack can be compared with {reference}, whose excess may be 0."
    said = [line for word in ("more", "fewer") if (line := _found(pairs, reference, word))]
    differ = [name for word in ("more", "fewer") for name in _others(pairs, reference, word)]
    if rest := [name for found in pairs if (name := _other(found, reference)) not in differ]:
        said.append(f"no difference is seen between {_listed(rest)} and {reference}{_would_show(metrics, pairs)}")
    text = "; ".join(said)
    return f"{text[0].upper() if text.startswith('no ') else text[0]}{text[1:]}, at equal candidates."


def _pairs_with(metrics: Metrics, reference: str) -> list[Compared | AttackRatio]:
    """Return the tests of an attack against each other one in the closest band."""
    compared: Sequence[Compared | AttackRatio] = metrics.attack_ratios or metrics.comparisons
    first = compared[0].band if compared else ""
    return [found for found in compared if found.band == first and reference in (found.first, found.second)]


def _other(found: Compared | AttackRatio, reference: str) -> str:
    return found.first if found.second == reference else found.second


def _others(pairs: Sequence[Compared | AttackRatio], reference: str, word: str) -> list[str]:
    """Return the attacks that find more, or fewer, than the reference; a test may have it first or second."""
    turned = {"more": "fewer", "fewer": "more"}[word]
    return [
        _other(found, reference)
        for found in pairs
        if re.match(f"(finds|hits) {word if found.second == reference else turned}", found.verdict)
    ]


def _found(pairs: Sequence[Compared | AttackRatio], reference: str, word: str) -> str:
    """Say which attacks find more, or fewer, than the reference; nothing if none does."""
    names = _others(pairs, reference, word)
    finds = f"find{'s' if len(names) == 1 else ''} {word} than {_named(reference)}"
    return f"{_listed(names)} {finds}" if names else ""


def _would_show(metrics: Metrics, pairs: Sequence[Compared | AttackRatio]) -> str:
    seen = [found.smallest_difference for found in metrics.comparisons if found in pairs]
    return f" ({100 * max(seen):.1f} points would show)" if seen else ""


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    >>> _listed(["one", "two", "three"])
    'one, two and three'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _named(attack: str) -> str:
    return "plain sampling" if attack == PLAIN else attack


def _one_preparation(metrics: Metrics) -> str:
    prepares = any(cost.nfe.get("prepare", 0) or cost.flops.get("prepare", 0) for cost in metrics.costs)
    if not prepares or len({cost.seed for cost in metrics.costs}) > 1:
        return ""
    seed = metrics.costs[0].seed
    more = " ".join(f"--seed {seed + step}" for step in range(3))
    return f"One preparation of each attack: {more} for a claim about attacks."


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def _wrapped(text: str, width: int, most: int = 3) -> list[str]:
    """Return a text in lines of the width, two spaces in; what is longer than `most` lines is cut."""
    if not text:
        return []
    return textwrap.wrap(
        text,
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        max_lines=most,
        placeholder=" ...",
        break_on_hyphens=False,
    )
