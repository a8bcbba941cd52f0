"""How to read a comparison of runs: one headline in plain words, and a sentence for each run and attack."""

from collections.abc import Sequence

from ...results.schema import Estimate
from ..verdict import Headline, Tone
from .schema import Comparing, Leak

FEW = 3
"""Runs that a title still names one by one."""


def headline(found: Comparing) -> Headline:
    """Say in a title and two sentences what the first yardstick shows over all runs and attacks."""
    leaks = [leak for leak in found.leaks if leak.yardstick == found.yardsticks()[0]]
    runs = list(dict.fromkeys(leak.run for leak in leaks))
    kinds = {run: _kind([leak.verdict for leak in leaks if leak.run == run]) for run in runs}
    if len(runs) == 1:
        title = _title(runs[0], kinds[runs[0]], found.baseline, any(leak.after.low > 0 for leak in leaks))
    elif len(runs) <= FEW:
        listed = [f"{run} {_KINDS[kind][0]}" for run, kind in kinds.items()]
        title = f"Against {found.baseline}: {', '.join(listed)}"
    else:
        counts = [(kind, list(kinds.values()).count(kind)) for kind in _KINDS]
        listed = [f"{count} {_KINDS[kind][count > 1]}" for kind, count in counts if count]
        title = f"{len(runs)} runs against {found.baseline}: {', '.join(listed)}"
    tone: Tone = "leak" if "more" in kinds.values() else "clear" if set(kinds.values()) == {"less"} else "open"
    return Headline(tone, title, _lead(leaks, found.baseline))


def badge(found: Comparing) -> str:
    """Return the verdict in two words, over all runs and attacks."""
    verdicts = {leak.verdict for leak in found.leaks if leak.yardstick == found.yardsticks()[0]}
    return verdicts.pop() if len(verdicts) == 1 else "mixed"


def sentences(found: Comparing) -> list[str]:
    """Say for each run and attack what the first yardstick shows, before and after."""
    return [_sentence(leak) for leak in found.leaks if leak.yardstick == found.yardsticks()[0]]


_KINDS = {
    "less": ("leaks less", "leak less"),
    "more": ("leaks more", "leak more"),
    "same": ("shows no difference", "show no difference"),
    "mixed": ("differs by attack", "differ by attack"),
}
"""Of one run and of several, by what the verdicts of a run's attacks come to."""


def _kind(verdicts: Sequence[str]) -> str:
    seen = {verdict.removeprefix("leaks ") for verdict in verdicts if verdict.startswith("leaks ")}
    return "same" if not seen else "mixed" if len(seen) > 1 else seen.pop()


def _title(run: str, kind: str, baseline: str, left: bool) -> str:
    if kind == "same":
        return f"No difference was seen between {run} and {baseline}"
    if kind == "mixed":
        return f"{run} leaks less than {baseline} to one attack and more to another"
    return f"{run} leaks {kind} than {baseline}" + (", but still leaks" if left and kind == "less" else "")


def _lead(leaks: Sequence[Leak], baseline: str) -> str:
    """Name the attack that finds most without a change, and what each end of the runs leaves of that."""
    most = max(leaks, key=lambda leak: leak.before.value)
    own = [leak for leak in leaks if leak.against == most.against]
    least, worst = (pick(own, key=lambda leak: leak.after.value) for pick in (min, max))
    said = (
        f"Before ({baseline}), {most.against} shows the largest leak: {_share(most.before)} of candidates "
        f"(training less held-out images). "
    )
    if least is worst:
        return said + f"With {least.run} it is {_share(least.after)}."
    return said + f"That becomes {_share(least.after)} with {least.run} and {_share(worst.after)} with {worst.run}."


def _sentence(leak: Leak) -> str:
    who = leak.attack if leak.attack == leak.against else f"{leak.attack}, against {leak.against}"
    left = (
        "a leak is left"
        if leak.after.low > 0
        else f"no leak is seen any more, at most {100 * leak.after.high:z.2f} % could have gone unseen"
        if leak.before.low > 0
        else "no leak is seen"
    )
    low, high = (f"{100 * end:+z.2f}" for end in (leak.change.low, leak.change.high))
    return (
        f"{leak.run}, {who}: {_share(leak.before)} becomes {_share(leak.after)}, a change of {low} to {high} points "
        f"(p = {leak.p:.2g} by Holm): {leak.verdict}; {left}."
    )


def _share(found: Estimate) -> str:
    return f"{100 * found.value:z.2f} %"
