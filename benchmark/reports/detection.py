"""What a reader sees of a detection: counts of labels, a table for each kind of negatives, and which are ties."""

from collections.abc import Sequence

from ..results.detection import AgainstNegatives, DetectionResult, DetectorPair
from ..results.schema import Estimate
from ..stats.detection import LEAST_COMPARED

_NEGATIVES = {
    "not replayed": "memorised against seen in training and not replayed",
    "never seen": "memorised against never seen",
}


def as_text(found: DetectionResult) -> str:
    """Return the tables of a detection."""
    parts = [_labels(found), *(_against(each, found) for each in found.against)]
    return "\n\n".join(parts)


def _labels(found: DetectionResult) -> str:
    counts = ", ".join(
        f"{count.prompts:,} {label} ({count.families:,} {'family' if count.families == 1 else 'families'})"
        for label, count in found.counts.items()
    )
    lines = [f"prompts: {counts}"]
    if found.replay is not None:
        replay = found.replay
        lines.append(
            f"labels: {replay.images} images of each training caption, guidance {replay.guidance_scale:g}, "
            f"{replay.steps} steps; memorised: its own image is nearest by {replay.measure} in at least half of them; "
            f"not replayed: in none"
        )
    if found.cut:
        lines.append(f"{found.cut:,} prompts are longer than the text encoder takes")
    if found.dropped:
        lines.append(f"{found.dropped:,} prompts of the file are captions of the pair and were left out")
    return "\n".join(lines)


def _against(each: AgainstNegatives, found: DetectionResult) -> str:
    from tabulate import tabulate

    title = _NEGATIVES[each.negatives]
    if each.refused:
        return f"{title}: {each.refused}"
    calls = {used.detector: used.nfe / used.prompts for used in found.detectors}
    rows = [
        {
            "detector": rate.detector,
            "AUC": _shown(rate.auc, 3),
            **{tpr_title(fpr): _shown(value, 2) for fpr, value in sorted(rate.tpr.items(), reverse=True)},
            "NFE a prompt": f"{calls[rate.detector]:.1f}",
        }
        for rate in each.rates
    ]
    lines = [title, tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)]
    lines += [f"no {tpr_title(fpr)}: {why}" for fpr, why in sorted(each.left_out.items(), reverse=True)]
    return "\n".join([*lines, *verdict(each)])


def verdict(each: AgainstNegatives) -> list[str]:
    """Return which detectors differ and which are ties, by AUC and by TPR, in a sentence each."""
    if len(each.rates) > 1 and not each.pairs:
        return [f"detectors are compared from {LEAST_COMPARED} families of either kind on"]
    return [line for by, pairs in compared(each).items() for line in _compared(by, pairs)]


def compared(each: AgainstNegatives) -> dict[str, list[DetectorPair]]:
    """Return all pairs of detectors by the name of what they are compared by; none where there are no pairs."""
    by_rate = sorted(each.tpr_pairs.items(), reverse=True)
    named = {"AUC": each.pairs, **{tpr_title(fpr): pairs for fpr, pairs in by_rate}}
    return {by: pairs for by, pairs in named.items() if pairs}


def _compared(by: str, pairs: Sequence[DetectorPair]) -> list[str]:
    tied = [f"{pair.first} = {pair.second}" for pair in pairs if pair.tie]
    said = "; ".join(" above ".join(ordered(pair)) for pair in pairs if not pair.tie)
    lines = [f"shown by {by} (Holm, 5 %): {said}"] if said else []
    if tied:
        every = "all pairs: " if len(pairs) > 1 and not said else ""
        lines.append(f"ties by {by}: {every}{', '.join(tied)}")
    return lines


def ordered(pair: DetectorPair) -> tuple[str, str]:
    """Return the two names of a pair, the one with the higher value first."""
    return (pair.first, pair.second) if pair.difference.value > 0 else (pair.second, pair.first)


def tpr_title(fpr: str) -> str:
    """Return how a TPR is called, given the key of its false positive rate.

    >>> tpr_title("0.01")
    'TPR at 1.0% FPR'
    """
    return f"TPR at {float(fpr):.1%} FPR"


def _shown(value: Estimate, digits: int) -> str:
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
