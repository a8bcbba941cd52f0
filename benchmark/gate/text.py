"""What the gate says, as text, as JSON, as Markdown for a job's page and as JUnit XML. No torch.

Names of attacks and pairs, and messages with them, come from files: they are escaped in Markdown and XML.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..files import MADE
from .claims import MEANINGS, Finding

if TYPE_CHECKING:
    from .decision import AttackNumbers, Decision

HEADLINES = {
    "pass": "PASS: {subject} stays within every limit",
    "fail": "FAIL: {subject} leaks more than the policy allows",
    "cannot tell": "CANNOT TELL whether {subject} stays within the limits",
}


def headline(decision: "Decision") -> str:
    """Return the answer in one line."""
    return HEADLINES[decision.verdict].format(subject=decision.subject)


def as_text(decision: "Decision") -> str:
    """Return what, how sure, and what would settle it."""
    from tabulate import tabulate

    parts = [headline(decision)]
    if decision.findings:
        parts.append(tabulate(rows(decision), headers="keys", tablefmt="simple", disable_numparse=True))
    parts.append("\n".join(explanations(decision)))
    if decision.folder is not None:
        parts.append(f"gate folder: {decision.folder} (gate.json; images and scores, which stay here)")
    return "\n\n".join(parts)


def explanations(decision: "Decision") -> list[str]:
    """Return the sentences below the table: reasons, errors, what would settle it, thresholds, checks, cost."""
    policy = decision.policy
    lines = [f"cannot pass: {check.name}: {check.said}" for check in decision.checks if not check.ok]
    lines += [f"cannot pass: {reason}" for reason in decision.reasons]
    lines += [sentence(found, policy.alpha, policy.beta) for found in decision.findings]
    if decision.findings:
        lines.append(
            f"bounds hold at every look: a model within the limits fails with a chance of at most {policy.alpha:.0%} "
            f"(Holm over {decision.hypotheses}), one beyond a limit passes with at most {policy.beta:.0%}; "
            f"{_conditions(decision)}"
        )
    lines += [_numbers(found) for found in decision.attacks]
    lines += [f"{name}: not begun, as the answer was certain before" for name in decision.not_needed]
    lines += [f"checked: {check.name}: {check.said}" for check in decision.checks if check.ok]
    lines += [f"not checked: {missing}" for missing in decision.unchecked]
    if decision.spent.seconds:
        seconds, _, processor = decision.spent
        lines.append(f"cost: {seconds:.0f} s of preparing and generating, {processor:.0f} s of processor time")
    return lines


def as_dict(decision: "Decision") -> dict[str, Any]:
    """Return everything as plain JSON values."""
    return {
        "schema": "sidebench-gate/1",
        "verdict": decision.verdict,
        "exit_code": decision.exit_code,
        "subject": decision.subject,
        "says": [headline(decision), *explanations(decision)],
        "checks": [check._asdict() for check in decision.checks],
        "unchecked": decision.unchecked,
        "reasons": decision.reasons,
        "attacks": [{**found._asdict(), "excess": found.excess and list(found.excess)} for found in decision.attacks],
        "findings": [found._asdict() for found in decision.findings],
        "hypotheses": decision.hypotheses,
        "preparations": {name: list(seeds) for name, seeds in decision.preparations.items()},
        "not_needed": decision.not_needed,
        "spent": decision.spent._asdict(),
        "policy": decision.policy.model_dump(mode="json", by_alias=True),
    }


def as_markdown(decision: "Decision") -> str:
    """Return a short summary for a job's page."""
    from tabulate import tabulate

    parts = [f"### {plain(headline(decision))}"]
    if decision.findings:
        escaped = [{key: plain(value) for key, value in row.items()} for row in rows(decision)]
        parts.append(tabulate(escaped, headers="keys", tablefmt="github", disable_numparse=True))
    parts.append("\n".join(f"- {plain(line)}" for line in explanations(decision)))
    return "\n\n".join([*parts, f"<!-- {MADE.decode()} -->"]) + "\n"


def junit(decision: "Decision") -> ET.ElementTree:
    """Return JUnit XML: a test case per claim and per check; what cannot be told is an error, not a failure."""
    suite = ET.Element("testsuite", name=f"sidebench gate {_xml(decision.subject)}")
    for found in decision.findings:
        case = ET.SubElement(suite, "testcase", classname=_xml(found.attack), name=found.limit_name)
        said = sentence(found, decision.policy.alpha, decision.policy.beta)
        if found.p_fail <= decision.policy.alpha:
            ET.SubElement(case, "failure", message=_xml(said))
        elif found.p_pass > decision.policy.beta:
            ET.SubElement(case, "error", message=_xml(said))
        ET.SubElement(case, "system-out").text = _xml(said)
    for name, ok, said in [*decision.checks, *(("budget", False, reason) for reason in decision.reasons)]:
        case = ET.SubElement(suite, "testcase", classname="gate", name=_xml(name))
        if not ok:
            ET.SubElement(case, "error", message=_xml(said))
        ET.SubElement(case, "system-out").text = _xml(said)
    for name in decision.not_needed:
        case = ET.SubElement(suite, "testcase", classname=_xml(name), name="not begun")
        ET.SubElement(case, "skipped", message="the answer was certain before")
    if decision.spent.seconds:
        case = ET.SubElement(suite, "testcase", classname="gate", name="preparing and generating")
        case.set("time", f"{decision.spent.seconds:.1f}")
    suite.set("time", f"{decision.spent.seconds:.1f}")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.append(ET.Comment(f" {MADE.decode()} "))
    return ET.ElementTree(suite)


def rows(decision: "Decision") -> list[dict[str, str]]:
    """Return the table of claims."""
    return [
        {
            "attack": found.attack,
            "limit": f"{found.limit_name} {found.limit:.2%}",
            "seen": share(found.rate),
            "at least": share(found.low),
            "at most": share(found.high),
            "candidates": f"{found.candidates:,}",
            "answer": answer_of(found, decision.policy.alpha, decision.policy.beta),
        }
        for found in decision.findings
    ]


def _conditions(decision: "Decision") -> str:
    """Say what the errors are conditional on: the images, and the tested preparations of the attacks that have any."""
    prepared, count = decision.preparations, decision.policy.preparations
    if not prepared:
        return "on these images; no attack that was tested prepares anything"
    names, seeds = " and ".join(prepared), next(iter(prepared.values()))
    if count == 1:
        return f"on these images, of this preparation of {names} (seed {seeds[0]}): another one may find more"
    which = f"these {count} preparations of {names} ({_seeds(seeds)})"
    if any(len(tested) < count for tested in prepared.values()):  # a leak was certain before the others
        which = " and ".join(f"{name} ({_seeds(tested)})" for name, tested in prepared.items())
        which = f"the preparations that were tested, {which}"
    return (
        f"on these images, of {which}: any of them fails the model, at {decision.policy.alpha:.0%} / {count} each, and "
        f"all {count} must pass; another one may find more"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def answer_of(found: Finding, alpha: float, beta: float) -> str:
    """Return whether what was seen lies "above" the limit or "below" it; "open": neither can be said."""
    if found.p_fail <= alpha:
        return "above"
    return "below" if found.p_pass <= beta else "open"


def sentence(found: Finding, alpha: float, beta: float) -> str:
    """Say what a claim came to, and what would settle it where it is open."""
    what = f"{found.attack}: {MEANINGS[found.limit_name]}"
    limit = f"the limit of {found.limit:.2%}"
    answer = answer_of(found, alpha, beta)
    if answer == "above":
        return f"{what}: above {limit}, at least {share(found.low)} (p = {found.p_fail:.2g}, Holm-corrected)"
    if answer == "below":
        shown = f"p = {found.p_pass:.2g}, shown after {found.after:,} candidates"
        return f"{what}: below {limit}, at most {share(found.high)} ({shown})"
    if not found.candidates:
        return f"{what}: no candidate could be compared"
    if found.note:
        return f"{what}: {share(found.low)} to {share(found.high)} holds {limit}; cannot tell: {found.note}"
    settle = "no number of candidates would settle it at the present rate; change the limit or the threshold"
    if found.needed is not None:
        settle = f"about {found.needed:,} candidates would settle it, were the rates to stay"
    return f"{what}: {share(found.low)} to {share(found.high)} holds {limit}; {settle}"


def _numbers(found: "AttackNumbers") -> str:
    how = f"calibrated on {found.calibrated_on:,} other candidates" if found.calibrated_on else "as the policy says"
    text = (
        f"{found.attack}: {found.training_hits:,} training and {found.held_out_hits:,} held-out hits of "
        f"{found.candidates:,} candidates at threshold {found.threshold:.4f} ({how}), {found.groups:,} groups hit"
    )
    if found.candidates:
        text += f"; 3/N = {3 / found.candidates:.2%} is the least that so many candidates could exclude without a hit"
    if found.excess is not None:
        text += f"; excess {share(found.excess.low)} to {share(found.excess.high)}, looked at once"
    if found.baseline is not None:
        how = "both started from the same noise" if found.paired else "from other noise, as it has other seeds"
        text += f"; compared with {found.baseline} ({how})"
    return text


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{value:.2%}"


def plain(text: str) -> str:
    """Escape what Markdown and HTML would read as markup."""
    for mark in "&\\`*_[]<>|#!":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>&" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[mark])
    return text.replace("\n", " ")


def _xml(text: str) -> str:
    """Replace characters that XML 1.0 cannot hold; the library escapes the rest."""
    return "".join(letter if letter in "\t\n" or letter >= " " else "?" for letter in text)
