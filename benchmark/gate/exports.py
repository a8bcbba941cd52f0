"""The gate's answer for other tools: annotations of a GitHub job, SARIF for code scanning, a section of a model card.

None of them holds an image, a training image's name or a path.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..environment import version
from ..files import MADE
from .claims import MEANINGS
from .text import answer_of, headline, plain, sentence, share

if TYPE_CHECKING:
    from .decision import Decision

SARIF = "2.1.0"
"""OASIS standard; the version that code scanning reads."""

LEVELS = {"above": "error", "open": "warning", "below": "notice"}
"""How an answer shows beside a job, by what a claim came to."""

BADGES = {"pass": "within every limit", "fail": "above a limit", "cannot tell": "not decided"}


def annotations(decision: "Decision") -> list[str]:
    """Return workflow commands, a line each, which a GitHub job shows beside its result.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    level = {"pass": "notice", "fail": "error", "cannot tell": "warning"}[decision.verdict]
    lines = [_command(level, "sidebench gate", headline(decision))]
    lines += [_command(level, title, said) for level, title, said in _results(decision) if level != "notice"]
    return lines


def sarif(decision: "Decision", policy_file: str) -> dict[str, Any]:
    """Return a SARIF log: a result for each claim above a limit or undecided, and for each check that did not hold.

    `policy_file` is the place that results point to, relative to the repository: a model has no lines of code.
    """
    found = [(level, title, said) for level, title, said in _results(decision) if level != "notice"]
    rules = {title: {"id": title, "shortDescription": {"text": _what(title)}} for _, title, _ in found}
    place = {"physicalLocation": {"artifactLocation": {"uri": quote(policy_file)}, "region": {"startLine": 1}}}
    logical = {"logicalLocations": [{"name": decision.subject, "kind": "resource"}]}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": SARIF,
        "runs": [
            {
                "tool": {"driver": {"name": "sidebench", "version": version("sidebench"), "rules": [*rules.values()]}},
                "properties": {"comment": MADE.decode(), "verdict": decision.verdict},
                "results": [
                    {
                        "ruleId": title,
                        "level": level,
                        "message": {"text": said},
                        "locations": [{**place, **logical}],
                        "partialFingerprints": {"sidebench/v1": f"{decision.subject} {title}"},
                    }
                    for level, title, said in found
                ],
            }
        ],
    }


def card(decision: "Decision") -> str:
    """Return a section in Markdown for the card of the model that was judged, whatever the answer."""
    policy, tested = decision.policy, dict.fromkeys(found.attack for found in decision.findings)
    names = ", ".join(f"`{name}`" for name in tested) or "nothing that could be tested"
    lines = [
        "## Memorization of training images",
        "",
        f"Attacked with {names} by sidebench {version('sidebench')} under a release "
        f"policy (measure `{policy.measure}`): **{BADGES[decision.verdict]}**.",
        "",
    ]
    for found in decision.findings:
        seen = f"{share(found.low)} to {share(found.high)} ({found.candidates:,} candidates), limit {found.limit:.2%}"
        lines.append(f"- {plain(found.attack)}: {MEANINGS[found.limit_name]}: {seen}")
    lines += [f"- not tested: {plain(name)}, as the answer was certain before" for name in decision.not_needed]
    lines += [f"- {plain(reason)}" for reason in decision.reasons]
    lines += [f"- {check.name}: {plain(check.said)}" for check in decision.checks if not check.ok]
    lines += [
        "",
        f"Chances of a wrong answer: {policy.alpha:.0%} that a model within the limits fails, {policy.beta:.0%} that "
        "one beyond a limit passes. Other attacks, or other training images than those compared, may find more.",
    ]
    return "\n".join(lines) + "\n"


def _results(decision: "Decision") -> list[tuple[str, str, str]]:
    """Return (level, title, sentence) of every claim and every check, and of what kept the gate from an answer."""
    policy = decision.policy
    found = [
        (LEVELS[answer_of(each, policy.alpha, policy.beta)], f"{each.attack} {each.limit_name}",
         sentence(each, policy.alpha, policy.beta))
        for each in decision.findings
    ]  # fmt: skip
    found += [("notice" if check.ok else "warning", check.name, check.said) for check in decision.checks]
    return found + [("warning", "budget", reason) for reason in decision.reasons]


def _what(title: str) -> str:
    return MEANINGS.get(title.rpartition(" ")[2], title)


def _command(level: str, title: str, said: str) -> str:
    for mark, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, said = title.replace(mark, code), said.replace(mark, code)
    for mark, code in ((":", "%3A"), (",", "%2C")):
        title = title.replace(mark, code)
    return f"::{level} title={title}::{said}"
