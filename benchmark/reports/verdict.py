"""How to read a run: one headline in plain words, and the checks that it rests on."""

from typing import Any, Literal, NamedTuple

from ..protocol import UNLIKE
from ..results.likeness import is_unlike
from ..results.reach import LEAST
from ..results.schema import LeakClaim, Metrics
from .tables import claim_words

Tone = Literal["leak", "clear", "open"]
"""Training images were found; none were seen; nothing can be said."""

State = Literal["good", "look", "missing"]
"""As it should be; read the verdict with care; not checked."""


SAY_IID = "if the held-out images are a random part of the same pool, say control iid (--control iid)"
"""The way out of a surrogate control, where no classifier speaks against it."""


class Headline(NamedTuple):
    """What a reader should take away."""

    tone: Tone
    title: str
    lead: str


class VerdictCheck(NamedTuple):
    """One thing that the verdict rests on."""

    what: str
    finding: str
    state: State


def headline(metrics: Metrics) -> Headline:
    """Say in a title and a few sentences what all attacks show, over all nested bands of the measure that decides."""
    if not any(result.bands for result in metrics.results):
        measure = metrics.results[0].measure if metrics.results else "the measure"
        said = f"{measure} has no fixed bands, so no score counts as a hit. The figures show how near images come."
        return Headline("open", f"{metrics.pair}: no verdict", said)
    claims = metrics.claims
    if not metrics.claims_excess or not claims:
        return Headline("open", f"{metrics.pair}: rates, but no verdict", _unclaimed(metrics))
    says = {claim.says for claim in claims}
    if "excess" in says:
        return Headline("leak", f"{metrics.pair} gives training images away", _leak(metrics))
    if "control does not fit" in says:
        said = (
            f"Training images are hit less often than {_control_in_words(metrics)}, which no leak explains. Check that "
            f"the training set of the pair is the one that the model was trained on."
        )
        return Headline("open", f"{metrics.pair}: the control does not fit", said)
    said = " ".join(f"{claim.attack} {claim_words(claim, metrics.control)}." for claim in claims)
    if "cannot see" in says:
        return Headline("open", f"{metrics.pair}: the measure cannot see a leak", said)
    if "unlike images" in says:
        return Headline("open", f"{metrics.pair}: the images are not of its kind", said)
    if "cannot tell" in says:
        return Headline("open", f"{metrics.pair}: cannot tell by this control", said)
    return Headline("clear", f"{metrics.pair}: no leak was seen", _no_leak(metrics))


def strongest(metrics: Metrics) -> str | None:
    """Return the attack that a test calls stronger than each other one in some band, and none weaker; else None.

    The only attack of a run is its strongest. With several preparations it is the tests over them that count.
    """
    attacks = list(dict.fromkeys(result.attack for result in metrics.results))
    if len(attacks) == 1:
        return attacks[0]
    beats: dict[str, set[str]] = {name: set() for name in attacks}
    loses: dict[str, set[str]] = {name: set() for name in attacks}
    for found in metrics.attack_ratios or metrics.comparisons:
        first, second = found.first, found.second
        if found.verdict.startswith(("finds fewer", "hits fewer")):
            first, second = second, first
        elif not found.verdict.startswith(("finds more", "hits more")):
            continue
        beats[first].add(second)
        loses[second].add(first)
    return next((name for name in attacks if len(beats[name]) == len(attacks) - 1 and not loses[name]), None)


def checks(
    metrics: Metrics, audit: dict[str, Any], quality: dict[str, Any], costs: dict[str, Any]
) -> list[VerdictCheck]:
    """Return what the verdict rests on: control, detector, images, repeatability, replication.

    The last three arguments are audit.json, quality.json and costs.json.
    """
    return [
        _control(metrics),
        *_reach(metrics),
        *_detector(metrics, audit),
        _images(metrics),
        *_likeness(quality),
        *_quality(quality),
        _repeatability(costs),
        _replication(metrics),
    ]


def _unclaimed(metrics: Metrics) -> str:
    if metrics.claims_excess:
        return (
            f"{metrics.results[0].measure} cannot decide: its scores on training and held-out images are not on one "
            f"scale, or the results were written before verdicts read all bands. Take another measure, or run again."
        )
    way_out = ""
    if metrics.control == "iid":
        why = "Training and held-out images are distinguishable by a classifier"
    elif metrics.control == "none":
        why = "There are no held-out images"
    else:
        why = f"The control is of the kind {metrics.control}"
        if metrics.control == "surrogate" and not (metrics.control_check and metrics.control_check.told_apart):
            way_out = f"; {SAY_IID}"
    return f"{why}, so hits alone do not show that images come from training{way_out}. The rates stand for themselves."


def _leak(metrics: Metrics) -> str:
    """Say how many attacks find training images, which is the strongest by the tests, and what one of them finds."""
    found = [claim for claim in metrics.claims if claim.says == "excess"]
    best = strongest(metrics)
    shown = next((claim for claim in found if claim.attack == best), None)
    if shown is None:
        shown = max(found, key=lambda claim: max(band.at_least for band in claim.bands))
    who = "The attack finds" if len(metrics.claims) == 1 else f"{len(found)} of {len(metrics.claims)} attacks find"
    over = f"{who} training images more often than {_control_in_words(metrics)}."
    if len(metrics.claims) == 1:
        name = f"{shown.attack} "
    elif best == shown.attack:
        of = "by every test" if metrics.attack_ratios else "by every test of this preparation of each"
        name = f"{shown.attack}, the strongest {of}, "
    else:
        over += " No test names one of them the strongest."
        name = f"{shown.attack} "
    return f"{over} {name}{claim_words(shown, metrics.control)}.{_shown_groups(metrics, shown)}"


def _shown_groups(metrics: Metrics, claim: LeakClaim) -> str:
    """Say what an attack hit, in the widest band in which it has an excess."""
    results = [r for r in metrics.results if (r.attack, r.measure) == (claim.attack, claim.measure)]
    bands = [band for result in results for band in result.bands if band.band == claim.widest]
    hits, candidates = sum(band.training.ams.count for band in bands), sum(result.candidates for result in results)
    groups = max(band.training.groups for band in bands)
    each = "" if len(bands) == 1 else "up to "
    return (
        f" Of {candidates:,} candidates, {hits:,} ({100 * hits / candidates:.1f} %) match a training image in band "
        f"{claim.widest}, {each}{groups:,} unique groups of them."
    )


def _no_leak(metrics: Metrics) -> str:
    claims = metrics.claims
    who = "The attack hits" if len(claims) == 1 else f"None of {len(claims)} attacks hits"
    rather = "no more often than" if len(claims) == 1 else "more often than"
    widest, closest = (max(claims, key=lambda claim: claim.bands[place].at_most).bands[place] for place in (-1, 0))
    narrower = "" if len(claims[0].bands) == 1 else f", up to {100 * closest.at_most:.2f} % in band {closest.band}"
    return (
        f"{who} training images {rather} {_control_in_words(metrics)}. At {claims[0].candidates:,} candidates each, a "
        f"leak of up to {100 * widest.at_most:.2f} % of them could have gone unseen{narrower}."
    )


def _control_in_words(metrics: Metrics) -> str:
    if metrics.control == "reference-model":
        return "a reference model does, which is said not to have seen them"
    return "held-out ones, which the model never saw"


def _control(metrics: Metrics) -> VerdictCheck:
    """Return what the attack was compared with, and whether it is fit for that."""
    if metrics.control == "reference-model":
        said = "the same attack on a reference model; that it was not trained on these images is the pair's word"
        return VerdictCheck("Control", said, "look")
    found = metrics.control_check
    if found is None:
        return VerdictCheck("Control", "none: raw rates, of which chance hits are a part", "missing")
    sizes = f"{metrics.training_images:,} training and {metrics.held_out_images:,} held-out images"
    auc = f"AUC {found.auc:.2f} [{found.low:.2f}, {found.high:.2f}]"
    if found.told_apart:
        return VerdictCheck("Control", f"{sizes}, distinguishable by a classifier ({auc}): only a surrogate", "look")
    said = f"kind {metrics.control}: {sizes}, not distinguishable by a classifier ({auc}; 0.5 is a guess)"
    return VerdictCheck("Control", said, "good" if metrics.claims_excess else "look")


def _detector(metrics: Metrics, audit: dict[str, Any]) -> list[VerdictCheck]:
    """Return how the detector does in the closest band: copies found, non-copies called copies."""
    found = audit["measures"][metrics.results[0].measure] if metrics.results else {"bands": []}
    if not found["bands"]:
        return []
    band, place = found["bands"][0]["band"], found["thresholds"].index(found["edges"][0])
    share = {
        (copies["kind"], copies["label"]): copies["right"]["count"][place] / copies["n"] for copies in found["copies"]
    }
    mildest = {kind: (kind, label) for kind, label in reversed(share) if kind not in ("identical", "flip")}
    worst = min(mildest.values(), key=lambda change: share[change])
    said = (
        f'{100 * share["identical", "identical"]:.0f} % of exact copies of training images are found in band "{band}"; '
        f"of {len(mildest)} mild changes it misses {worst[0]} {worst[1]} most: {100 * share[worst]:.0f} % are found"
    )
    listed = [VerdictCheck("Detector, copies", said, "good" if share[worst] > 0.9 else "look")]
    others = found["non_copies"]
    if others is None:
        return [*listed, VerdictCheck("Detector, false alarms", str(audit["non_copies_missing"]), "missing")]
    count, high = others["any"]["count"][place], others["any"]["high"][place]
    said = f"{count:,} of {others['n']:,} images of neither side are called copies (at most {100 * high:.1f} %)"
    return [
        *listed,
        VerdictCheck("Detector, false alarms", said, "good" if others["any"]["low"][place] < 0.01 else "look"),
    ]


def _reach(metrics: Metrics) -> list[VerdictCheck]:
    """Return what the measure can see of copies that went through the model's own output."""
    if not metrics.reach or metrics.reach[0].how == "identity":
        return []
    found = metrics.reach[0]
    if found.training is None:
        return [VerdictCheck("Reach", f"none exists: {found.reason}", "missing")]
    share = found.training.value
    said = f"{100 * share:.0f} % of training images are found in band {found.band} again, once they went {found.reason}"
    return [VerdictCheck("Reach", said, "good" if share >= LEAST else "look")]


def _images(metrics: Metrics) -> VerdictCheck:
    first = {(result.attack, result.seed): result for result in metrics.results}.values()
    broken = sum(result.nan + result.constant for result in first)
    said = f"{broken:,} of {sum(result.candidates for result in first):,} candidates are broken or of one colour"
    return VerdictCheck("Candidates", said, "look" if broken else "good")


def _likeness(quality: dict[str, Any]) -> list[VerdictCheck]:
    """Say how far the candidates are from the pair's images; older runs do not tell."""
    known = [found for found in quality.values() if "of_variance" in found]
    far = [(found["of_variance"], found["of_variance_training"]) for found in known]
    if not far:
        return []
    worst, training = max(far)
    said = (
        f"Frechet distance to real images up to {worst:.2f} of their variance (at most {UNLIKE}), that of as many "
        f"training images {training:.2f}"
    )
    strange = any(is_unlike(*each) for each in far)
    return [VerdictCheck("Images of the pair's kind", said, "look" if strange else "good")]


def _quality(quality: dict[str, Any]) -> list[VerdictCheck]:
    real = quality.get("training images")
    if "skipped" in quality or not real:
        return [VerdictCheck("Sample quality", quality.get("skipped", "was not assessed"), "missing")]
    made = [found for name, found in quality.items() if name != "training images"]
    known = [found["label_accuracy"] for found in made if found["label_accuracy"] is not None]
    if not known or real["label_accuracy"] is None:
        return []
    said = (
        f"a classifier trained on candidates is right on {100 * min(known):.0f} % of real ones, "
        f"on {100 * real['label_accuracy']:.0f} % when trained on training images"
    )
    return [VerdictCheck("Sample quality", said, "good" if min(known) > 0.8 * real["label_accuracy"] else "look")]


def _repeatability(costs: dict[str, Any]) -> VerdictCheck:
    probes = [unit["probe"] for unit in costs["units"].values()]
    off = max((probe["largest"] for probe in probes), default=0)
    said = f"candidates reproduced with another batch size differ by at most {off} of 255 levels"
    wide = [unit["float32"] for unit in costs["units"].values() if unit.get("float32")]
    otherwise = sum(found.get("decided_otherwise", 0) for found in wide)
    if wide:
        said += f"; in float32 {otherwise} of {sum(found['candidates'] for found in wide)} fall into another band"
    unsure = otherwise or any(found["refused"] for found in wide) or any(probe["above_limit"] for probe in probes)
    if costs.get("mixed_environment"):
        return VerdictCheck("Repeatability", f"{said}; parts were made in different environments", "look")
    return VerdictCheck("Repeatability", said, "look" if unsure else "good")


def _replication(metrics: Metrics) -> VerdictCheck:
    seeds = len({result.seed for result in metrics.results})
    if seeds > 1:
        return VerdictCheck("Replication", f"{seeds} preparations of each attack, on one model", "good")
    return VerdictCheck(
        "Replication", "this preparation of each attack, on one model: it says nothing of others", "look"
    )
