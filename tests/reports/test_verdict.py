"""The headline and the checks under it: what is said follows the numbers, and nothing more is said."""

from typing import Any

import pytest

from sidebench.benchmark.reports.page_data import Contents, read_contents
from sidebench.benchmark.reports.tables import verdicts
from sidebench.benchmark.reports.verdict import VerdictCheck, checks, headline, strongest
from sidebench.benchmark.results.schema import BandClaim, Compared, Estimate, LeakClaim, Metrics


@pytest.fixture(scope="module")
def contents(finished: Any) -> Contents:
    return read_contents(finished.folder)


BANDS = ("high", "high+mid", "high+mid+low")


def claim(attack: str, says: str = "none seen", *, in_bands: tuple[str, ...] = (), **changes: Any) -> LeakClaim:
    """Return what an attack shows: an excess in some of the nested bands, or none."""
    bands = [
        BandClaim(band=band, p=0.01 if band in in_bands else 0.5, at_least=0.02 * (band in in_bands), at_most=most)
        for band, most in zip(BANDS, (0.01, 0.05, 0.2), strict=True)
    ]
    return LeakClaim(
        attack=attack,
        seeds=changes.pop("seeds", [0]),
        measure="nl2c:n50:a0.5",
        candidates=40,
        says="excess" if in_bands else says,
        closest=in_bands[0] if in_bands else None,
        widest=in_bands[-1] if in_bands else None,
        bands=bands,
        groups_hit=3,
        least_groups=5,
        **changes,
    )


def with_claims(metrics: Metrics, *claims: LeakClaim, **changes: Any) -> Metrics:
    """Return the run with these claims, a fair control and no comparison."""
    check = metrics.control_check.model_copy(update={"told_apart": False})
    update = {"claims": list(claims), "control": "iid", "control_check": check, "comparisons": [], **changes}
    return metrics.model_copy(update=update)


@pytest.mark.parametrize(
    ("claims", "tone", "words"),
    [
        (
            [claim("carlini-uncond"), claim("side", in_bands=BANDS[:2]), claim("carlini-cond", in_bands=BANDS[:1])],
            "leak",
            [
                "2 of 3 attacks find",
                "No test names one of them the strongest",
                "bands high (p = 0.01, at least 2.00 %)",
            ],
        ),
        ([claim("side", in_bands=BANDS[2:])], "leak", ["The attack finds", "in band high+mid+low (p"]),
        (
            [claim("side"), claim("carlini-uncond")],
            "clear",
            ["None of 2 attacks hits", "up to 20.00 % of them could have gone unseen, up to 1.00 % in band high"],
        ),
        ([claim("side")], "clear", ["The attack hits training images no more often"]),
        ([claim("side", "control does not fit"), claim("carlini-uncond")], "open", ["which no leak explains"]),
        (
            [claim("side", "cannot tell")],
            "open",
            ["3 groups are hit", "5 hit groups are needed", "use more held-out images or a reference model"],
        ),
        ([claim("side", "cannot see")], "open", ["not found again after the model's own round trip"]),
    ],
)
def test_headline_follows_the_claims(contents: Contents, claims: list[LeakClaim], tone: str, words: list[str]) -> None:
    found = headline(with_claims(contents.metrics, *claims))
    assert found.tone == tone
    for word in words:
        assert word in found.lead
    assert ("gives training images away" in found.title) == (tone == "leak")
    assert ("no leak was seen" in found.title) == (tone == "clear")


def test_what_could_go_unseen_is_that_of_the_attack_that_leaves_most(contents: Contents) -> None:
    one, other = claim("side"), claim("carlini-uncond")
    other.bands = [band.model_copy(update={"at_most": 1.5 * band.at_most}) for band in other.bands]
    for claims in ((one, other), (other, one)):
        lead = headline(with_claims(contents.metrics, *claims)).lead
        assert "up to 30.00 % of them could have gone unseen, up to 1.50 % in band high" in lead


def test_a_leak_in_the_widest_band_alone_is_the_first_line(contents: Contents) -> None:
    leaky = with_claims(contents.metrics, claim("side", in_bands=BANDS[2:]))
    assert headline(leaky).title == "digits gives training images away"
    assert verdicts(leaky) == [
        "side, seed 0, 40 candidates of this preparation: finds training images; excess over held-out images in band "
        "high+mid+low (p = 0.01, at least 2.00 %)."
    ]


def test_what_must_be_known_of_an_attack_stands_in_its_line(contents: Contents) -> None:
    found = verdicts(with_claims(contents.metrics, claim("side", remark="guided by chance", seeds=[0, 1])))
    assert found[0].startswith("side, 2 preparations") and found[0].endswith("in band high; guided by chance.")


def compared(first: str, second: str, verdict: str, band: str = "high") -> Compared:
    nothing = Estimate(value=0, low=0, high=0)
    fields = {"seed": 0, "measure": "nl2c:n50:a0.5", "band": band, "difference": nothing, "ratio": None}
    return Compared(
        first=first, second=second, verdict=verdict, ratio_refused="", p=0.01, smallest_difference=0.1, **fields
    )


def test_an_attack_is_the_strongest_only_where_tests_say_so(contents: Contents) -> None:
    def named(*comparisons: Compared) -> str | None:
        return strongest(with_claims(contents.metrics, comparisons=list(comparisons)))

    better = compared("side", "carlini-uncond", "finds more")
    assert named(better) is None  # of three attacks, carlini-cond was not beaten
    assert named(better, compared("carlini-cond", "side", "finds fewer", "high+mid")) == "side"
    beaten = compared("carlini-uncond", "side", "finds more", "high+mid+low")
    assert named(better, compared("side", "carlini-cond", "finds more"), beaten) is None
    one = [result for result in contents.metrics.results if result.attack == "side"]
    assert strongest(contents.metrics.model_copy(update={"results": one})) == "side"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "surrogate"}, "of the kind surrogate"),
        ({"control": "none", "control_check": None}, "no held-out images"),
        ({"results": []}, "no fixed bands"),
        ({"claims": []}, "cannot decide"),
    ],
)
def test_no_verdict_without_a_fair_control_or_bands(contents: Contents, change: dict[str, Any], words: str) -> None:
    found = headline(with_claims(contents.metrics, claim("side", in_bands=BANDS)).model_copy(update=change))
    assert found.tone == "open" and words in found.lead and "gives" not in found.title


def test_a_surrogate_control_has_a_way_out_unless_a_classifier_speaks_against_it(contents: Contents) -> None:
    surrogate = contents.metrics.model_copy(update={"control": "surrogate"})
    assert "if the held-out images are a random part of the same pool, say control iid (--c" in headline(surrogate).lead
    told = contents.metrics.control_check.model_copy(update={"told_apart": True})
    for other in ({"control_check": told}, {"control": "none", "control_check": None}, {"control": "iid"}):
        assert "--control" not in headline(surrogate.model_copy(update={"claims_excess": False, **other})).lead


def by_name(contents: Contents, **changes: Any) -> dict[str, VerdictCheck]:
    metrics = contents.metrics.model_copy(update=changes.pop("metrics", {}))
    files = {"audit": contents.audit, "quality": contents.quality, "costs": contents.costs, **changes}
    return {check.what: check for check in checks(metrics, **files)}


def test_checks_of_a_run(contents: Contents) -> None:
    found = by_name(contents)
    assert found["Candidates"].finding == "0 of 120 candidates are broken or of one colour"
    assert found["Repeatability"].state == "good"
    assert found["Replication"].state == "look"
    assert "100 % of exact copies" in found["Detector, copies"].finding
    assert found["Detector, copies"].state == "look" and "shift 0.25 px" in found["Detector, copies"].finding
    assert found["Detector, false alarms"].state == "good"


def test_a_check_that_fails_is_marked(contents: Contents) -> None:
    told = contents.metrics.control_check.model_copy(update={"told_apart": True})
    assert by_name(contents, metrics={"control_check": told})["Control"].state == "look"
    broken = [contents.metrics.results[0].model_copy(update={"nan": 3, "constant": 1})]
    assert "4 of 40" in by_name(contents, metrics={"results": broken})["Candidates"].finding
    probe = {"probe": {"largest": 9, "above_limit": True}}
    assert by_name(contents, costs={"units": {"side.s0": probe}})["Repeatability"].state == "look"
    mixed = {**contents.costs, "mixed_environment": True}
    assert "different environments" in by_name(contents, costs=mixed)["Repeatability"].finding
    bad = {name: {**row, "label_accuracy": 0.1} for name, row in contents.quality.items()}
    bad["training images"] = contents.quality["training images"]
    assert by_name(contents, quality=bad)["Sample quality"].state == "look"


def test_what_was_not_checked_is_said(contents: Contents) -> None:
    assert by_name(contents, quality={"skipped": "too large"})["Sample quality"].state == "missing"
    assert by_name(contents, metrics={"control_check": None, "control": "none"})["Control"].state == "missing"
    headline_measure = contents.metrics.results[0].measure
    alone = {**contents.audit["measures"][headline_measure], "non_copies": None}
    audit = {**contents.audit, "measures": {headline_measure: alone}, "non_copies_missing": "the pair has no pool"}
    found = by_name(contents, audit=audit)["Detector, false alarms"]
    assert found.state == "missing" and found.finding == "the pair has no pool"


def test_a_measure_without_bands_has_no_detector_check(contents: Contents) -> None:
    plain = [result for result in contents.metrics.results if result.measure == "rms"]
    found = by_name(contents, metrics={"results": plain})
    assert not any(name.startswith("Detector") for name in found)
