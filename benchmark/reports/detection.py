"""What a reader sees of a detection: counts of labels, a table for each kind of negatives, and which are ties."""

from ..results.detection import AgainstNegatives, DetectionResult, ties
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
            **{f"TPR at {float(fpr):.1%} FPR": _shown(value, 2) for fpr, value in rate.tpr.items()},
            "NFE a prompt": f"{calls[rate.detector]:.1f}",
        }
        for rate in each.rates
    ]
    lines = [title, tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)]
    lines += [f"no TPR at {float(fpr):.1%} FPR: {why}" for fpr, why in each.left_out.items()]
    return "\n".join([*lines, *verdict(each)])


def verdict(each: AgainstNegatives) -> list[str]:
    """Return which detectors differ and which are ties, in a sentence each."""
    apart = [pair for pair in each.pairs if not pair.tie]
    said = []
    for pair in apart:
        ordered = (pair.first, pair.second) if pair.difference.value > 0 else (pair.second, pair.first)
        said.append(f"{ordered[0]} above {ordered[1]}")
    lines = [f"shown by AUC (Holm, 5 %): {'; '.join(said)}"] if said else []
    if len(each.rates) > 1 and not each.pairs:
        lines.append(f"detectors are compared from {LEAST_COMPARED} families of either kind on")
    if tied := ties(each):
        lines.append(f"ties: {', '.join(f'{pair.first} = {pair.second}' for pair in tied)}")
    return lines


def _shown(value: Estimate, digits: int) -> str:
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
