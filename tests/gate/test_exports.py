"""What the gate says in the words of other tools: annotations, SARIF, a section of a model card, JUnit with times."""

import dataclasses
import json
from pathlib import Path

import pytest

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.files import check_output
from sidebench.benchmark.gate.checks import GateCheck
from sidebench.benchmark.gate.claims import Finding
from sidebench.benchmark.gate.decision import Decision
from sidebench.benchmark.gate.exports import annotations, card, sarif
from sidebench.benchmark.gate.policy import load_policy
from sidebench.benchmark.gate.source import Spent
from sidebench.benchmark.gate.text import explanations, junit
from sidebench.benchmark.gate.write_files import Wanted, check_places, write_files

NASTY = "100%: a,b\n<b>"


def finding(name: str, **changes: object) -> Finding:
    known = {
        "attack": "carlini-uncond",
        "limit_name": name,
        "limit": 0.02,
        "rate": 0.3,
        "low": 0.15,
        "high": 0.45,
        "p_fail": 0.5,
        "p_pass": 0.5,
        "candidates": 256,
        "after": 0,
        "needed": 5000,
        "note": "",
    }
    return Finding(**{key: value for key, value in (known | changes).items() if key in Finding._fields})


@pytest.fixture
def failed() -> Decision:
    """Return a decision of each kind of claim: above a limit, below one, and open; one check does not hold."""
    return Decision(
        "fail",
        NASTY,
        load_policy("example"),
        [GateCheck("control", True, "not distinguishable"), GateCheck("detector", False, NASTY)],
        findings=[
            finding("excess", p_fail=0.001),
            finding("group_rate", p_pass=0.001),
            finding("raw_rate"),
        ],
        not_needed=["side"],
        spent=Spent(61.25, 0.0, 60.0),
    )


def test_a_job_shows_the_answer_and_what_is_not_right(failed: Decision) -> None:
    lines = annotations(failed)
    assert lines[0] == "::error title=sidebench gate::FAIL: 100%25: a,b%0A<b> leaks more than the policy allows"
    assert lines[1].startswith(
        "::error title=carlini-uncond excess::carlini-uncond: candidates that training images own"
    )
    assert (
        lines[2].startswith("::warning title=carlini-uncond raw_rate::") and "5,000 candidates would settle" in lines[2]
    )
    assert lines[3:] == ["::warning title=detector::100%25: a,b%0A<b>"]
    assert not any("\n" in line for line in lines)
    passed = dataclasses.replace(failed, verdict="pass", findings=[], checks=[])
    assert [line.partition(" ")[0] for line in annotations(passed)] == ["::notice"]
    unsure = dataclasses.replace(failed, verdict="cannot tell", findings=[], checks=[], reasons=["the budget ended"])
    assert annotations(unsure)[1] == "::warning title=budget::the budget ended"


def test_sarif_holds_what_is_above_or_open_and_points_to_the_policy(failed: Decision) -> None:
    (run,) = sarif(failed, "ci/policy.yaml")["runs"]
    assert [(found["ruleId"], found["level"]) for found in run["results"]] == [
        ("carlini-uncond excess", "error"),
        ("carlini-uncond raw_rate", "warning"),
        ("detector", "warning"),
    ]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {found["ruleId"] for found in run["results"]}
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "ci/policy.yaml" and run["tool"]["driver"]["name"] == "sidebench"


def test_a_card_says_what_was_seen_with_its_limits_and_no_more(failed: Decision) -> None:
    text = card(failed)
    assert "**above a limit**" in text and "not tested: side" in text
    assert "Attacked with `carlini-uncond` by sidebench" in text
    assert "Attacked with nothing that could be tested by" in card(dataclasses.replace(failed, findings=[]))
    assert "15.00% to 45.00% (256 candidates), limit 2.00%" in text and "\\<b" not in text.replace("&lt;b", "")
    assert "Other attacks, or other training images than those compared, may find more." in text
    passed = dataclasses.replace(failed, verdict="pass", findings=[finding("excess", p_pass=0.001)], checks=[])
    assert "**within every limit**" in card(passed)


def test_what_was_not_begun_is_no_condition_of_the_answer(failed: Decision) -> None:
    said = "\n".join(explanations(failed))
    assert "on these images; no attack that was tested prepares anything" in said and "of side" not in said
    assert "p = 0.001, Holm-corrected" in said and "shown after 0 candidates" in said
    several = load_policy("example").model_copy(update={"preparations": 3})
    partly = dataclasses.replace(failed, policy=several, preparations={"side": [0, 1], "mine": [0]})
    assert "of the preparations that were tested, side (seeds 0 to 1) and mine (seed 0)" in "\n".join(
        explanations(partly)
    )


def test_junit_says_how_long_it_took(failed: Decision) -> None:
    suite = junit(failed).getroot()
    assert suite is not None and suite.get("time") == "61.2"
    timed = [case.get("time") for case in suite.findall("testcase") if case.get("time")]
    assert timed == ["61.2"]


def test_every_file_that_was_asked_for_is_ours_to_replace(failed: Decision, tmp_path: Path) -> None:
    wanted = Wanted(*(tmp_path / name for name in ("a.xml", "b.md", "c.html", "d.sarif", "e.md")))
    for _ in range(2):
        check_places(wanted)
        write_files(failed, wanted, "policy.yaml")
    assert json.loads((tmp_path / "d.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"
    (tmp_path / "e.md").write_text("a card of somebody's", encoding="utf-8")
    with pytest.raises(BadInput, match=r"e\.md"):
        check_output(tmp_path / "e.md", force=False)
