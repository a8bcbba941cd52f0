"""The first page answers its three questions from the records of the repository, and from made ones."""

import re
from pathlib import Path
from statistics import fmean

import pytest
from made_records import changed, entry, vary

from sidebench.leaderboards import corrected, detection_boards, overview, site, verdicts
from sidebench.leaderboards.ranking import Leaderboard, rank, read_leaderboard
from sidebench.leaderboards.record import Record
from sidebench.leaderboards.svg import HEIGHT, LINE, ChartPoint, point_chart
from sidebench.leaderboards.tables import percent

RECORDS = Path(__file__).resolve().parents[2] / "leaderboards" / "records"


@pytest.fixture(scope="module")
def shipped() -> Leaderboard:
    return read_leaderboard(RECORDS)


def test_the_first_page_answers_which_attack_finds_most(shipped: Leaderboard) -> None:
    shown = overview.rankings(shipped.boards)
    firsts = [ranking.rows[0].record.excess.value for ranking in shown]
    assert len(shown) == overview.BOARDS and firsts == sorted(firsts, reverse=True)
    for ranking in shown:
        assert ranking.rows == ranking.board.ranked[: overview.ROWS]
        assert all(ranking.scale.low <= row.record.excess.low <= ranking.scale.high for row in ranking.rows)
    text = site.index_page(shipped)
    for ranking in shown:
        places = [text.index(f'href="records/{row.entry.id}.html"') for row in ranking.rows]
        assert places == sorted(places)
    assert text.index("Which attack finds most?") < text.index("All boards")
    assert text.count(">1 more row</a> on its board") == 1


def test_the_page_of_detectors_says_first_who_leads(shipped: Leaderboard) -> None:
    (board,) = shipped.detections
    said = verdicts.detectors_verdict(board)
    assert (
        said[1]
        == "Memorised against never seen, by AUC: a tie of noise-norm (0.78) and sharpness (0.76) is first of 7."
    )
    files = dict(site._detection_files(board))
    text = files[f"boards/{board.name}.html"]
    assert text.index("is first of 7") < text.index("<table")
    # Which detectors differ, and which are ties, stands open below each of the two tables.
    assert text.count("<p><bdi>Ties by AUC: ") == 2 and "Which detectors differ" not in text
    assert "is first of 7" in site.index_page(shipped)
    assert verdicts.detectors_verdict(board._replace(current=[])) == []
    found = detection_boards.standings(board.first, board.first.against[1])
    assert verdicts._leading(found[:1], "x") == "Memorised against x, by AUC: noise-norm (0.78) is first of 1."
    alike = [row._replace(best=1) for row in found]
    assert "no difference between 7 detectors is seen; noise-norm (0.78)" in verdicts._leading(alike, "x")


def test_the_first_page_answers_which_defence_leaves_least_at_what_quality(shipped: Leaderboard) -> None:
    grids = {grid.boards[0].first.victim.name: grid for grid in overview.defences(shipped.boards)}
    against = {name: [board.first.claim.attack for board in grid.boards] for name, grid in grids.items()}
    assert against == {"digits": ["carlini-cond", "carlini-uncond", "side"], "glyphs": ["prompt-replay"]}
    for grid in grids.values():
        worst = [max(row.record.excess.value for row in found.rows if row) for found in grid.rows]
        assert worst == sorted(worst)
        for found in [grid.without, *grid.rows]:
            for board, row in zip(grid.boards, found.rows, strict=True):
                assert row is not None and row in [*board.ranked, *board.reference]
            qualities = [row.record.quality.frechet for row in found.rows if row and row.record.quality]
            assert found.frechet == (max(qualities) if qualities else None)
    assert "Which defence leaves least, and at what quality?" in site.index_page(shipped)


def test_the_first_page_answers_what_is_safe(shipped: Leaderboard) -> None:
    said = {model.board.first.victim.name: model for model in overview.models(shipped.boards)}
    assert said["digits"].leaks and re.search(r"at least [\d.]+ % of side-walk's candidates", said["digits"].said)
    assert not said["digits-clean"].leaks and "could have gone unseen" in said["digits-clean"].said
    text = site.index_page(shipped)
    assert "Is this model safe to ship?" in text and "sidebench gate PAIR" in text


def test_a_board_without_a_fair_control_claims_nothing(real_records: list[Record]) -> None:
    record = changed(real_records[0], control="none", control_check=None, name="free", worked_example=False)
    found = rank([entry(record)])
    assert overview.models(found.boards) == [] and overview.rankings(found.boards) == []
    assert "Is this model safe to ship?" in site.index_page(found)


def test_what_all_boards_have_is_said_once(shipped: Leaderboard) -> None:
    common = overview.in_common(shipped.boards)
    assert common == ["protocol sidebench/2", "control iid"], "the pairs of the study have few training images"
    text = site.index_page(shipped)
    assert text.partition("Attacks over all boards")[0].count("sidebench/2") == 1
    alike = [board for board in shipped.boards if board.first.measure == "nl2c:n50:a0.5"]
    assert overview.in_common(alike) == ["nl2c:n50:a0.5", *common]
    assert site.index_page(shipped._replace(boards=alike)).count("nl2c:n50:a0.5") == 1
    assert overview.in_common([]) == []


def test_a_column_of_one_value_is_a_line(real_records: list[Record]) -> None:
    assert overview.same_in_all(real_records[:1]) == {}
    same = overview.same_in_all(real_records)
    assert same["submitter"] == real_records[0].submitter
    other = [*real_records, changed(real_records[0], submitter="other")]
    assert "submitter" not in overview.same_in_all(other)
    (board,) = rank([entry(record) for record in real_records]).boards
    assert ">Submitter</button>" not in site.board_page(board)
    (board,) = rank([entry(record) for record in other]).boards
    assert ">Submitter</button>" in site.board_page(board)


def test_a_record_begins_with_the_mean_over_its_seeds(shipped: Leaderboard) -> None:
    board = next(board for board in shipped.boards if board.first.victim.name == "digits" and board.kind == "attacks")
    row = board.ranked[0]
    results = [row.record.headline(seed) for seed in row.record.seeds]
    means = overview.means(row.record)
    assert [mean.band for mean in means] == [band.band for band in results[0].bands]
    for place, mean in enumerate(means):
        bands = [result.bands[place] for result in results]
        assert mean.ams == fmean(band.training.ams.value for band in bands)
        assert mean.groups == fmean(band.training.groups for band in bands)
        assert mean.control == fmean(band.held_out.ams.value for band in bands if band.held_out)
    assert means[0].excess == row.record.excess.value
    assert means[0].interval == (row.record.excess.low, row.record.excess.high) and means[1].interval is None
    text = site.record_page(row, board)
    assert (
        text.index("mean of 3 seeds")
        < text.index("By seed, each with its interval")
        < text.index(">seed 0<", text.index("By seed, each"))
    )


def test_points_have_names_that_hide_no_other(shipped: Leaderboard) -> None:
    near = [ChartPoint(100.0, 10.0, 9.0, 11.0), ChartPoint(101.0, 10.1, 9.0, 11.0), ChartPoint(300.0, 2.0, 1.0, 3.0)]
    svg = str(point_chart(near, "x", "y", "said", ["one-attack", "another", "<b>"]))
    places = [
        float(y) for _, y in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="middle">[oa&]', svg)
    ]
    assert len(places) == 3 and abs(places[0] - places[1]) >= LINE and "&lt;b&gt;" in svg
    assert svg.index("<circle") < svg.index("whisker"), "the whisker lies over the dot"


def test_names_of_many_points_in_one_place_stay_in_the_picture() -> None:
    for high, names in ((11.0, 12), (11.0, 40), (1.0, 12)):
        points = [ChartPoint(100.0, high - 1, 0.0, high)] * names + [ChartPoint(200.0, 10.0, 9.0, 11.0)]
        svg = str(point_chart(points, "x", "y", "said", ["one-attack"] * names + ["other"]))
        places = [float(y) for y in re.findall(r'class="name" x="[\d.]+" y="(-?[\d.]+)" text-anchor="middle">one', svg)]
        assert len(places) == names and all(LINE <= y <= HEIGHT for y in places)
        assert names > 12 or len(set(places)) == names


def test_a_draw_does_not_read_like_a_share_that_was_done(shipped: Leaderboard) -> None:
    row = next(row for board in shipped.boards for row in board.ranked if row.entry.checked)
    assert row.entry.checked is not None and row.entry.checked.drawn == "32 of 32"
    assert "reproduced 32 of 32 drawn" in site.record_page(row, None)


def test_one_of_several_attacks_is_no_leak_by_chance(real_records: list[Record]) -> None:
    """Its own 95 % interval lies above 0; the limit over twenty attacks does not."""
    weak = vary(real_records[0], 0.025, 1, candidates=1024)
    clean = [vary(real_records[0], 0, draw, candidates=1024, held_out=0, attack=f"a{draw}") for draw in range(19)]
    assert weak.excess.low > 0
    (alone,) = overview.models(rank([entry(weak)]).boards)
    (of_twenty,) = overview.models(rank([entry(record) for record in [weak, *clean]]).boards)
    assert alone.leaks and "corrected" not in alone.said
    assert not of_twenty.leaks and f"up to {percent(weak.excess.high)} %" in of_twenty.said
    strong = vary(real_records[0], 0.06, 1, candidates=1024)
    (leaky,) = overview.models(rank([entry(record) for record in [strong, *clean]]).boards)
    assert leaky.leaks and "corrected for 20 results" in leaky.said
    own = re.search(r"at least ([\d.]+) %", leaky.said)
    assert own and 0 < float(own[1]) < 100 * strong.excess.low


def test_boards_and_the_first_page_agree_on_what_leaks(real_records: list[Record]) -> None:
    """One of twenty with an interval above 0 of its own is no leak in the sentence of its board, nor on its page."""
    weak = vary(real_records[0], 0.025, 1, candidates=1024)
    clean = [vary(real_records[0], 0, draw, candidates=1024, held_out=0, attack=f"a{draw}") for draw in range(19)]
    strong = vary(real_records[0], 0.06, 1, candidates=1024)
    for record, leaks in ((weak, 0), (strong, 1)):
        (board,) = rank([entry(each) for each in [record, *clean]]).boards
        (model,) = overview.models([board])
        row = next(row for row in board.ranked if row.record is record)
        assert record.excess.low > 0 and model.leaks == bool(leaks)
        assert verdicts.board_verdict(board).startswith("1 of 20" if leaks else "None of 20")
        assert any("may be chance" in line for line in verdicts.verdict(row, board)) == (not leaks)
    assert corrected.corrected_low(weak, 1) == weak.excess.low


def test_a_limit_of_many_rows_needs_no_swaps(real_records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    record = vary(real_records[0], 0.06, 1, candidates=1024)
    swapped = corrected.corrected_low(record, corrected.SWAPPED_ROWS)
    monkeypatch.setattr(corrected, "excess_of", None)
    widened = [corrected.corrected_low(record, rows) for rows in (corrected.SWAPPED_ROWS + 1, 400)]
    assert record.excess.low > max(swapped, *widened) and widened == sorted(widened, reverse=True)


def test_hits_below_those_of_held_out_images_bound_no_leak(real_records: list[Record]) -> None:
    record = changed(
        real_records[0], excess=real_records[0].excess.model_copy(update={"value": -0.02, "low": -0.03, "high": -0.01})
    )
    (found,) = overview.models(rank([entry(record)]).boards)
    assert not found.leaks and "no leak explains" in found.said and "unseen" not in found.said
