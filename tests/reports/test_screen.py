"""What a run prints first: the answer, and no more than a reader takes in."""

from typing import Any

import pytest

from sidebench.benchmark.reports import screen
from sidebench.benchmark.reports.screen import answer, first_screen
from sidebench.benchmark.results.schema import (
    AttackRatio,
    BandClaim,
    BandResult,
    Cost,
    Estimate,
    Exposure,
    LeakClaim,
    Metrics,
    OwnImages,
)


def claim(attack: str, says: Any, at_least: float = 0.0, at_most: float = 0.1) -> LeakClaim:
    bands = [
        BandClaim(band=name, p=0.001, at_least=at_least * factor, at_most=at_most * factor)
        for name, factor in (("high", 0.5), ("high+mid+low", 1.0))
    ]
    found = says == "excess"
    return LeakClaim(
        attack=attack,
        seeds=[0],
        measure="nl2c:n50:a0.5",
        candidates=40,
        says=says,
        closest="high" if found else None,
        widest="high+mid+low" if found else None,
        bands=bands,
        groups_hit=3,
        least_groups=5,
    )


def said(metrics: Metrics, *claims: LeakClaim) -> Metrics:
    """Return the metrics of the same run with other claims."""
    return metrics.model_copy(update={"claims": list(claims), "control": "iid", "flags": []})


@pytest.fixture
def metrics(finished: Any) -> Metrics:
    """Return the figures of a run of three attacks, 40 candidates each."""
    found: Metrics = finished.metrics
    assert found.claims_excess
    return found


def test_the_first_line_says_what_was_run(finished: Any, metrics: Metrics) -> None:
    lines = first_screen(finished.folder, metrics, 43.2).splitlines()
    assert lines[0].startswith(f"{metrics.pair}   3 attacks, 40 images each, seed 0") and lines[0].endswith(
        "  attacks took 43 s"
    )
    assert len(lines[0]) == 100
    assert lines[-2:] == [
        f"  report: {finished.folder.report_file}",
        f"  all tables: sidebench show {finished.folder.path} --all",
    ]


def hitting(metrics: Metrics, **rates: tuple[float, float, int]) -> Metrics:
    """Return the metrics with other shares hit by side, in bands by name: of X, of H, and groups of X."""

    def band(found: BandResult) -> BandResult:
        name = found.band.replace("+", "_")
        if name not in rates:
            return found
        training, held_out, groups = rates[name]
        sides = {
            side: getattr(found, side).model_copy(
                update={"ams": getattr(found, side).ams.model_copy(update={"value": value}), "groups": groups}
            )
            for side, value in (("training", training), ("held_out", held_out))
        }
        return found.model_copy(update=sides)

    results = [
        result.model_copy(update={"bands": [band(each) for each in result.bands]})
        if (result.attack, result.measure) == ("side", "nl2c:n50:a0.5")
        else result
        for result in metrics.results
    ]
    return metrics.model_copy(update={"results": results})


def with_excess(metrics: Metrics, **values: float) -> Metrics:
    """Return the metrics with another excess in the closest band, by attack with _ for -."""

    def changed(result: Any) -> Any:
        value = values.get(result.attack.replace("-", "_"))
        if value is None or not result.bands or result.bands[0].excess is None:
            return result
        first, *rest = result.bands
        excess = first.excess.model_copy(update={"value": value})
        return result.model_copy(update={"bands": [first.model_copy(update={"excess": excess}), *rest]})

    return metrics.model_copy(update={"results": [changed(result) for result in metrics.results]})


@pytest.mark.parametrize(("side", "plain", "named"), [(0.2, 0.1, "side"), (0.1, 0.2, "carlini-uncond")])
def test_the_answer_names_the_attack_that_the_table_shows_as_the_highest(
    metrics: Metrics, side: float, plain: float, named: str
) -> None:
    """Whatever its evidence in a wider band."""
    found = with_excess(metrics, side=side, carlini_uncond=plain)
    claims = claim("side", "excess", 0.3), claim("carlini-uncond", "excess", 0.1)
    assert answer(said(found, *claims)).endswith(f"({named})")
    wide = claims[1].model_copy(update={"closest": "high+mid+low"})
    assert answer(said(found, claims[0], wide)).endswith("(side)"), "the other has no excess in the closest band"


def test_a_leak_is_named_with_its_figures_and_the_controls(metrics: Metrics) -> None:
    found = hitting(metrics, high=(0.135, 0.0, 90), high_mid_low=(0.733, 0.108, 231))
    leaking, silent = claim("side", "excess", 0.3), claim("carlini-uncond", "none seen")
    assert answer(said(found, leaking, silent)) == (
        "LEAKS  13.5 % close copies (control: 0.0 %), 73.3 % in the widest band (control: 10.8 %); "
        "90 unique training images (side)"
    )
    # Only the closest band has an excess: the widest one, full of chance hits, is not quoted.
    narrow = leaking.model_copy(update={"widest": "high"})
    wanted = "LEAKS  13.5 % close copies (control: 0.0 %); 90 unique training images (side)"
    assert answer(said(found, narrow)) == wanted
    again = [result.model_copy(update={"seed": 1}) for result in hitting(metrics, high=(0.135, 0.0, 60)).results]
    twice = found.model_copy(update={"results": [*found.results, *again]})
    assert answer(said(twice, narrow)).endswith("; 75 unique training images for each seed (side)"), "as in the table"
    wide = leaking.model_copy(update={"closest": "high+mid+low"})
    assert answer(said(found, wide)) == (
        "LEAKS  73.3 % in band high+mid+low (control: 10.8 %); 231 unique training images (side)"
    )


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("none seen", "NO LEAK SEEN  a leak of up to 10.0 % of the candidates could have gone unseen"),
        ("cannot tell", "CANNOT TELL  side by this control: 3 groups are hit, and 5 hit groups are needed"),
        ("cannot see", "CANNOT SEE  side cannot see a leak: most training images are not found again"),
        ("control does not fit", "THE CONTROL DOES NOT FIT  side is nearer to held-out images than to training images"),
    ],
)
def test_every_other_answer_has_its_words(says: str, words: str, metrics: Metrics) -> None:
    assert answer(said(metrics, claim("side", says), claim("carlini-uncond", "none seen"))).startswith(words)


def test_without_a_fair_control_there_is_no_verdict(finished: Any, metrics: Metrics) -> None:
    bare = metrics.model_copy(update={"control": "surrogate", "claims": []})
    assert answer(bare).startswith("NO VERDICT: ") and answer(bare).endswith("say control iid (--control iid).")
    for width in (60, 100):
        lines = first_screen(finished.folder, bare, None, width).splitlines()
        assert "(--control iid)." in " ".join(" ".join(lines).split()) and len(lines) <= 25
    unbanded = [result.model_copy(update={"bands": []}) for result in metrics.results]
    text = first_screen(finished.folder, metrics.model_copy(update={"results": unbanded, "claims": []}))
    assert "has no fixed bands" in text and "copies %" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_it_fits_the_terminal_and_breaks_no_number(width: int, finished: Any, metrics: Metrics) -> None:
    many = metrics.model_copy(update={"flags": [f"flag number {n} " + "of many words " * 30 for n in range(7)]})
    lines = first_screen(finished.folder, many, 1234.0, width).splitlines()
    paths = [line for line in lines if str(finished.folder.path) in line]
    assert len(paths) == 2 and len(lines) <= 25
    assert max(len(line) for line in lines if line not in paths) <= max(width, 60)
    table = [line for line in lines if line.split()[:1] == ["side"]]
    assert len(table) == 1 and table[0].count("[") == table[0].count("]") == 1, "the excess stays whole"
    assert sum(line.lstrip().startswith("flag:") for line in lines) == 3 and "  4 more flags among all tables" in lines


def test_columns_go_by_their_importance(finished: Any, metrics: Metrics) -> None:
    def columns(width: int) -> str:
        lines = first_screen(finished.folder, metrics, None, width).splitlines()
        return next(line for line in lines if line.split()[:1] == ["attack"])

    whole, narrow = columns(100), columns(60)
    assert [title for title in ("copies %", "held-out %", "excess %", "unique", "NFE") if title in whole] == [
        "copies %",
        "held-out %",
        "excess %",
        "unique",
        "NFE",
    ]
    assert "copies %" in narrow and "excess %" in narrow and "NFE" not in narrow


def test_plain_sampling_is_the_yardstick(finished: Any, metrics: Metrics) -> None:
    text = " ".join(first_screen(finished.folder, metrics).split())
    largest = max(
        found.smallest_difference
        for found in metrics.comparisons
        if found.band == metrics.comparisons[0].band and "carlini-uncond" in (found.first, found.second)
    )
    assert (
        f"No attack is seen to beat plain sampling at equal candidates ({100 * largest:.1f} points would show)." in text
    )
    assert "One preparation of each attack: --seed 0 --seed 1 --seed 2 for a claim about attacks." in text
    better = [
        found.model_copy(update={"verdict": "finds more" if found.second == "carlini-uncond" else "finds fewer"})
        for found in metrics.comparisons
    ]
    text = " ".join(first_screen(finished.folder, metrics.model_copy(update={"comparisons": better})).split())
    assert "carlini-cond and side find more than plain sampling at equal candidates." in text


@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        ("finds fewer", "No attack is seen to beat plain sampling at equal candidates (*); carlini-cond and side find"),
        ("finds more", "side finds more than plain sampling; carlini-cond finds fewer than plain sampling, at equal"),
    ],
)
def test_an_attack_below_plain_sampling_is_named(side: str, sentence: str, finished: Any, metrics: Metrics) -> None:
    template = metrics.comparisons[0]
    pairs = [
        template.model_copy(update={"first": name, "second": "carlini-uncond", "verdict": verdict})
        for name, verdict in (("carlini-cond", "finds fewer"), ("side", side))
    ]
    found = metrics.model_copy(update={"comparisons": pairs, "attack_ratios": []})
    shown = f"{100 * template.smallest_difference:.1f} points would show"
    assert sentence.replace("*", shown) in " ".join(first_screen(finished.folder, found).split())


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (("no difference seen",), "No difference is seen between mine and side (*), at equal candidates."),
        (("finds more",), "mine finds more than side, at equal candidates."),
        (("hits fewer (raw rate)",), "mine finds fewer than side, at equal candidates."),
        (("no ratio",), "No attack can be compared with side, whose excess may be 0."),
        (
            ("finds more", "no difference seen"),
            "mine finds more than side; no difference is seen between other and side (*), at equal candidates.",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_without_plain_sampling_side_is_the_yardstick(
    verdicts: tuple[str, ...], sentence: str, turned: bool, finished: Any, metrics: Metrics
) -> None:
    template, names = metrics.comparisons[0], ("mine", "other")[: len(verdicts)]
    swapped = {"finds more": "finds fewer", "hits fewer (raw rate)": "hits more (raw rate)"}
    pairs = [
        template.model_copy(
            update={"first": "side", "second": name, "verdict": swapped.get(said, said)}
            if turned
            else {"first": name, "second": "side", "verdict": said}
        )
        for name, said in zip(names, verdicts, strict=True)
    ]
    side = [result for result in metrics.results if result.attack == "side"]
    own = [result.model_copy(update={"attack": name}) for name in names for result in side]
    found = metrics.model_copy(update={"results": [*side, *own], "comparisons": pairs, "attack_ratios": []})
    shown = f"{100 * template.smallest_difference:.1f} points would show"
    text = " ".join(first_screen(finished.folder, found).split())
    assert sentence.replace("*", shown) in text and "plain sampling at equal" not in text


def test_equal_cost_names_the_cheapest_hits(finished: Any, metrics: Metrics) -> None:
    def costs(**rates: float) -> list[Cost]:
        return [
            cost.model_copy(update={"hits_per_1000_equivalents": rates[cost.attack.replace("-", "_")]})
            for cost in metrics.costs
        ]

    for rates, name in (
        ({"carlini_uncond": 3.0, "carlini_cond": 1.0, "side": 2.0}, "plain sampling"),
        ({"carlini_uncond": 1.0, "carlini_cond": 1.0, "side": 2.5}, "side"),
        ({"carlini_uncond": 2.5, "carlini_cond": 1.0, "side": 2.5}, "plain sampling and side"),
    ):
        leaking = said(metrics, claim("side", "excess", 0.3)).model_copy(update={"costs": costs(**rates)})
        text = " ".join(first_screen(finished.folder, leaking).split())
        most = max(rates.values())
        assert f"highest rate is that of {name}: {most:.2f} hits per 1,000 denoiser calls (NFE)." in text
    # Without a leak hits are chance, and say nothing of an attack.
    clear = said(metrics, claim("side", "none seen")).model_copy(update={"costs": costs(**rates)})
    assert "At equal cost" not in first_screen(finished.folder, clear)


def test_several_preparations_are_read_together(finished: Any, metrics: Metrics) -> None:
    second = [result.model_copy(update={"seed": 1}) for result in metrics.results]
    rate = Estimate(value=0.123, low=0.1, high=0.15)
    ratio = AttackRatio(
        first="side",
        second="carlini-uncond",
        seeds=[0, 1],
        preparations=2,
        measure="nl2c:n50:a0.5",
        band="high",
        first_rate=rate,
        second_rate=None,
        spread=None,
        ratio=None,
        ratio_refused="",
        p=1.0,
        verdict="finds more",
    )
    both = metrics.model_copy(
        update={
            "results": [*metrics.results, *second],
            "attack_ratios": [ratio],
            "costs": [*metrics.costs, *(cost.model_copy(update={"seed": 1}) for cost in metrics.costs)],
        }
    )
    text = first_screen(finished.folder, both)
    assert "seeds 0, 1" in text and "12.3 [10.0, 15.0]" in text and "One preparation" not in text
    assert "side finds more than plain sampling at equal candidates." in text


def test_a_caption_s_own_image_is_a_link_that_comes_before_the_table(finished: Any, metrics: Metrics) -> None:
    rate = Estimate(value=0.673, low=0.601, high=0.737)
    link = OwnImages(
        attack="prompt-replay",
        seed=0,
        measure="rms",
        training_captions=64,
        training_families=32,
        control_captions=64,
        control_families=32,
        training=rate,
        control=Estimate(value=0.015, low=0.005, high=0.046),
        difference=rate,
        p=0.001,
        q=None,
        threshold=0.5,
        extracted=Estimate(value=0.082, low=0.04, high=0.15),
        extracted_control=None,
    )
    others = [{"seed": 1}, {"attack": "carlini-cliques"}, {"attack": "webster-edges"}]
    links = [link, *(link.model_copy(update=other) for other in others)]
    lines = first_screen(finished.folder, metrics.model_copy(update={"own_images": links})).splitlines()
    text = " ".join(" ".join(lines).split())
    assert "own image nearest (prompt-replay): 67.30 [60.10, 73.70] % of training captions, 1.50" in text
    assert text.count("own image nearest") == 2 and "own image nearest (carlini-cliques):" in text
    results = [*metrics.results, *(row.model_copy(update={"seed": 1}) for row in metrics.results)]
    several = metrics.model_copy(update={"own_images": links, "results": results})
    assert "own image nearest (prompt-replay, seed 0): 67.30" in first_screen(finished.folder, several)
    assert "extracted too: 8.20 [4.00, 15.00] %" in text and len(lines) <= 25
    assert text.index("own image nearest") < text.index("copies %")


def test_a_single_attack_keeps_its_excess_over_several_seeds(finished: Any, metrics: Metrics) -> None:
    own = [result for result in metrics.results if (result.attack, result.measure) == ("side", "nl2c:n50:a0.5")]
    again = [result.model_copy(update={"seed": 1}) for result in own]
    excess = own[0].bands[0].excess
    assert excess is not None
    found = claim("side", "excess", 0.3, 0.9)
    update = {"results": [*own, *again], "attack_ratios": [], "comparisons": []}
    text = first_screen(finished.folder, said(metrics, found).model_copy(update=update))
    assert f"{100 * excess.value:.1f} [15.0, 45.0]" in text, "the claim's limits in the closest band"


def test_what_was_not_tested_is_not_called_equal(finished: Any, metrics: Metrics) -> None:
    refused = [found.model_copy(update={"verdict": "no ratio"}) for found in metrics.comparisons]
    text = " ".join(first_screen(finished.folder, metrics.model_copy(update={"comparisons": refused})).split())
    assert "No attack can be compared with plain sampling, whose excess may be 0." in text
    assert "No attack is seen" not in text


def test_planted_strings_speak_where_bands_are_silent(finished: Any, metrics: Metrics) -> None:
    bits = Estimate(value=8.9, low=8.1, high=9.7)
    head: Any = {"attack": "canary-replay", "seed": 0, "others": 1000, "by_copies": []}
    exposure = Exposure(**head, planted=bits, difference=bits, p=1e-4)
    silent = said(metrics, claim("side", "none seen"))
    assert answer(silent).startswith("NO LEAK SEEN")
    found = silent.model_copy(update={"exposures": [exposure]})
    assert answer(found).startswith("LEAKS  strings that were planted")
    text = " ".join(first_screen(finished.folder, found).split())
    assert "exposure of planted strings (canary-replay): 8.9 of 10.0 bits" in text
    by_chance = exposure.model_copy(update={"p": 0.4})
    assert answer(silent.model_copy(update={"exposures": [by_chance]})).startswith("NO LEAK SEEN")


def test_a_reference_model_is_no_held_out_set_and_many_attacks_are_cut(finished: Any, metrics: Metrics) -> None:
    reference = first_screen(finished.folder, metrics.model_copy(update={"control": "reference-model"}))
    assert "reference %" in reference and "held-out %" not in reference
    one = [result for result in metrics.results if result.attack == "side"]
    many = [each.model_copy(update={"attack": f"mine-{n}"}) for n in range(17) for each in one]
    lines = first_screen(finished.folder, metrics.model_copy(update={"results": many, "comparisons": []})).splitlines()
    assert len(lines) <= 25 and "  and 9 more" in lines


def test_a_pipe_is_as_wide_as_a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert screen.terminal_width() == 100
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert screen.terminal_width() == 80
