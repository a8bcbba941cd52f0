"""Boards: what stands together, what stands apart or is stale and why, and the tables of all formats."""

import csv
import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from made_records import HUGE, OWN, badge, changed, entry, store, vary

from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.errors import BadInput, BadRecord
from sidebench.benchmark.stats.comparison import AttackHits
from sidebench.leaderboards import challenge_checks, corrected, ranking, site, tables
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.build import build
from sidebench.leaderboards.ranking import Board, Leaderboard, rank, read_leaderboard
from sidebench.leaderboards.record import Record, Source

EMPTY_POINT = {"values": {}, "excess": {"value": 0.0, "low": 0.0, "high": 0.0}}
TUNING = {"measure": "rms", "candidates": 4, "points": [{**EMPTY_POINT, "values": {"x": 1}}]}


HUB = Source(repo="owner/name", commit="0" * 40)


@pytest.fixture(scope="module")
def base(real_records: list[Record]) -> Record:
    """Return the record of plain sampling."""
    return real_records[0]


@pytest.fixture(scope="module")
def board(base: Record) -> Board:
    """Return a board of four attacks that differ clearly, but for the two in the middle."""
    rates = {"strong": 0.5, "side": 0.25, "other": 0.25, "carlini-uncond": 0.08}
    rows = [
        vary(base, rate, draw, candidates=600, attack=name, **OWN) for draw, (name, rate) in enumerate(rates.items())
    ]
    (found,) = rank([entry(row) for row in rows]).boards
    return found


def boards_of(records: list[Record]) -> list[Board]:
    return rank([entry(record) for record in records]).boards


def methods(board: Board) -> list[str]:
    return [row.record.claim.attack for row in board.ranked]


# ---- order ----


def test_rows_stand_by_excess_with_rank_ranges(board: Board) -> None:
    assert methods(board)[0] == "strong" and methods(board)[-1] == "carlini-uncond"
    assert [(row.best, row.worst) for row in board.ranked] == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert [row.against_plain for row in board.ranked] == ["finds more"] * 3 + [""]


def test_order_of_entries_does_not_matter(board: Board) -> None:
    again = rank([row.entry for row in reversed(board.ranked)]).boards[0]
    assert again == board


def test_a_candidate_costs_its_share_of_all_preparations(base: Record) -> None:
    once, thrice = (vary(base, 0.2, 0, candidates=600, seeds=seeds) for seeds in ((0,), (0, 1, 2)))
    spent = base.costs[0].denoiser_equivalents
    assert ranking.equivalents_per_candidate(once) == pytest.approx(spent / 600)
    assert ranking.equivalents_per_candidate(thrice) == pytest.approx(3 * spent / 1800)


def test_equal_cost_ranks_who_finds_more_for_it(base: Record) -> None:
    """Twice the hits for ten times the cost lead at equal candidates and fall behind at equal cost."""
    dear = vary(base, 0.5, 0, candidates=600, attack="dear", **OWN)
    dear = changed(dear, costs=[cost.model_copy(update={"denoiser_equivalents": 1200.0}) for cost in dear.costs])
    cheap = vary(base, 0.25, 1, candidates=600, attack="cheap", **OWN)
    assert ranking.equivalents_per_candidate(dear) == 2 == pytest.approx(10 * ranking.equivalents_per_candidate(cheap))
    (found,) = boards_of([cheap, dear])
    assert methods(found) == ["dear", "cheap"]
    assert [(row.best, row.worst) for row in found.ranked] == [(1, 1), (2, 2)]
    assert [(row.best_by_cost, row.worst_by_cost) for row in found.ranked] == [(2, 2), (1, 1)]


def test_one_record_is_a_board_of_one(base: Record) -> None:
    (found,) = boards_of([base])
    assert [(row.best, row.worst, row.against_plain) for row in found.ranked] == [(1, 1, "")]
    assert rank([]) == Leaderboard([], [], [], [])


def test_defences_have_their_own_board_least_leak_first(base: Record) -> None:
    rows = [
        vary(base, 0.3, 0, candidates=600, **OWN),
        vary(base, 0.2, 1, candidates=600, defences={"weak": {}}, **OWN),
        vary(base, 0.02, 2, candidates=600, defences={"strong": {"sigma": 1}}, **OWN),
        vary(base, 0.01, 3, candidates=600, defences={"strong": {}}, attack="feeble", **OWN),
    ]
    found = {(board.kind, board.first.claim.attack): board for board in boards_of(rows)}
    assert len(found) == 3
    ours = found["defences", "carlini-uncond"]
    assert [ranking.method_of(row.record) for row in ours.ranked] == ["strong", "weak"]
    assert [row.best for row in ours.ranked] == [1, 2]
    assert [row.record for row in ours.reference] == [rows[0]]
    assert not found["defences", "feeble"].reference


def test_a_defence_in_training_stands_beside_those_around_the_model(base: Record) -> None:
    plain = vary(base, 0.3, 0, candidates=600, **OWN)
    around = vary(base, 0.2, 1, candidates=600, defences={"weak": {}}, **OWN)
    trained = vary(base, 0.1, 2, candidates=600, defences={"training:early-stopping": {"steps": 9}}, **OWN)
    other_model = {"name": "other", "identity": "1" * 64, "model_sha256": {"x": "1" * 64}, "worked_example": False}
    trained = trained.model_copy(update={"victim": trained.victim.model_copy(update=other_model)})
    other_images = trained.model_copy(
        update={"victim": trained.victim.model_copy(update={"sides_sha256": "2" * 64, "name": "third"})}
    )
    found = [board for board in boards_of([trained, around, plain, other_images]) if board.kind == "defences"]
    assert sorted(len(board.ranked) for board in found) == [1, 2]
    (ours,) = [board for board in found if len(board.ranked) == 2]
    assert [row.record for row in ours.ranked] == [trained, around]
    assert [row.record for row in ours.reference] == [plain] and ours.name.startswith(plain.victim.name)


# ---- what stands together ----


@pytest.mark.parametrize(
    "change",
    [
        {"revision": 2},
        {"identity": "0" * 64},
        {"data_sha256": "0" * 64},
        {"sides_sha256": "0" * 64},
        {"model_sha256": {"x": "0" * 64}},
        {"measure": "rms"},
        {"band": "mid"},
        {"candidates": 50},
        {"sampler": SamplerSettings(steps=4)},
        {"control": "surrogate"},
        {"defences": {"clip": {}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_in_one_condition_is_never_ranked_together(base: Record, change: dict[str, Any]) -> None:
    one = changed(base, **OWN)
    if "measure" in change:
        change = {**change, "results": [result.model_copy(update=change) for result in base.results[:1]]}
    two = changed(vary(one, 0.2, 1) if "candidates" not in change else vary(one, 0.2, 1, **change), **change)
    found = boards_of([one, two])
    assert len(found) == 2 and len({board.name for board in found}) == 2


def test_the_micro_batch_makes_no_other_board(base: Record) -> None:
    one = changed(base, **OWN)
    (board,) = boards_of([one, changed(vary(one, 0.2, 1), micro_batch=7, submitter="other")])
    assert len(board.ranked) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"access": "oracle"}, "oracle"),
        ({"control": "surrogate"}, "control surrogate"),
        ({"control": "reference-model"}, "control reference-model"),
        ({"control": "none", "control_check": None}, "control none"),
        ({"told_apart": True}, "training and held-out images are distinguishable"),
    ],
)
def test_what_has_no_fair_control_stands_apart(base: Record, change: dict[str, Any], why: str) -> None:
    one = changed(base, **OWN)
    if "told_apart" in change:
        change = {"control_check": base.victim.control_check.model_copy(update=change)}
    found = boards_of([one, changed(one, submitter="another", **change)])
    apart = [row for board in found for row in board.apart]
    assert [row.best for board in found for row in board.ranked] == [1]
    assert len(apart) == 1 and why in apart[0].why and apart[0].best is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rules": "sidebench/0"}, "protocol sidebench/0; sidebench/1 and sidebench/2 are ranked"),
        ({"revision": 9}, "revision 9 of the pair is not known here"),
        ({"identity": "0" * 64}, "another pair than the digits that ships"),
    ],
)
def test_stale_records_say_why(base: Record, change: dict[str, Any], why: str) -> None:
    # The fixture's run has its own small sampler, as a pair may: only the pair's identity counts here.
    found = rank([entry(base), entry(changed(base, **change))])
    assert [row.record for board in found.boards for row in board.ranked] == [base]
    assert len(found.stale) == 1 and why in found.stale[0].why


def test_an_older_version_of_what_ships_is_stale(base: Record) -> None:
    """Under one name two versions are two attacks; of an attack from elsewhere only its submitter knows the latest."""
    for attack, version, why in (
        ("side", 1, "version 1 of side; 2 is the current one"),
        ("side--drop-rejected", 1, "version 1 of side--drop-rejected; 2 is the current one"),
        ("side", 2, ""),
        ("carlini-uncond", 1, ""),
        ("somebodys-own", 1, ""),
    ):
        found = rank([entry(vary(base, 0.2, 0, attack=attack, version=version, **OWN))])
        assert [row.why for row in found.stale] == ([why] if why else []), attack


def test_an_older_revision_is_stale(base: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ranking.load_pair("digits")
    monkeypatch.setattr(ranking, "load_pair", lambda name: pair.model_copy(update={"revision": 2}))
    assert "revision 1 of the pair; 2 is the current one" in rank([entry(base)]).stale[0].why


def test_a_later_record_of_the_same_claim_supersedes(base: Record) -> None:
    later = changed(base, submitted=date(2026, 3, 1))
    others = [changed(base, submitter="another"), changed(base, settings={"x": 1}), changed(later, seeds=base.seeds)]
    found = rank([entry(record) for record in (later, base, *others[:2])])
    assert [row.record for row in found.stale] == [base]
    assert entry(later).id in found.stale[0].why
    assert len(found.boards[0].ranked) == 3


def test_few_preparations_or_candidates_stand_apart(base: Record, least_sizes: tuple[int, int]) -> None:
    preparations, candidates = least_sizes
    assert (preparations, candidates) == (3, 256)
    enough = vary(base, 0.2, 0, candidates=256, seeds=(0, 1, 2), **OWN)
    few = vary(base, 0.2, 1, candidates=256, seeds=(0, 1), attack="few", **OWN)
    small = vary(base, 0.2, 2, candidates=255, seeds=(0, 1, 2), **OWN)
    found = {row.record.claim.attack: row.why for board in boards_of([enough, few]) for row in board.apart}
    assert found == {"few": "2 preparations of 256 candidates; ranked are at least 3 of 256"}
    (board,) = boards_of([small])
    assert not board.ranked and "3 preparations of 255 candidates" in board.apart[0].why


def test_cheat_a_defence_that_spoils_the_images_has_no_rank(base: Record) -> None:
    quality = vary(base, 0.2, 0).quality
    assert quality is not None
    for frechet, ranked in ((1.8, 1), (1.81, 0)):
        spoilt = quality.model_copy(update={"frechet": frechet, "frechet_of_training": 0.9})
        (board,) = boards_of([vary(base, 0.0, 1, defences={"noise": {}}, quality=spoilt, **OWN)])
        assert len(board.ranked) == ranked
    assert "Frechet distance 1.81, over 2 times that of training images (0.9)" in board.apart[0].why
    (board,) = boards_of([vary(base, 0.0, 1, defences={"noise": {}}, quality=None, **OWN)])
    assert "does not say how good the images are" in board.apart[0].why
    (board,) = boards_of([vary(base, 0.2, 1, quality=None, **OWN)])
    assert board.ranked, "an attack's images are whatever it likes"


def test_a_board_of_text_defences_says_which_captions_are_still_shown(base: Record) -> None:
    quality = vary(base, 0.2, 0).quality
    assert quality is not None
    asked = quality.model_copy(
        update={"frechet_latents": 52.34, "frechet_latents_of_training": 45.5, "caption_accuracy": 0.083}
    )
    silent = vary(base, 0.1, 1, defences={"noise": {}}, **OWN)
    told = vary(base, 0.0, 2, defences={"tokens": {}}, quality=asked, **OWN)
    (board,) = boards_of([silent])
    assert "shows its caption" not in tables.board_table(board, "md") and "Caption" not in site.board_page(board)
    (board,) = boards_of([silent, told])
    text = tables.board_table(board, "txt")
    assert "52.3 (45.5)" in text and " 8.3 " in text and "shows its caption, %" in text
    page = site.board_page(board)
    assert 'data-value="0.083">8.3<' in page and 'data-value="">-<' in page
    assert "quality_caption_accuracy" in tables.board_table(board, "csv")


def test_a_pair_that_nobody_else_has_is_retired(base: Record) -> None:
    record = vary(base, 0.2, 0, **OWN)
    for changes in ({"made_by": "sidebench train digits --seed 3"}, {"sources": {"model": HUB, "data": HUB}}):
        assert rank([entry(changed(record, **{"made_by": "", **changes}))]).boards
    for changes in ({}, {"sources": {"model": HUB}}):
        found = rank([entry(changed(record, **{"made_by": "", **changes}))])
        assert not found.boards and "nobody else has the pair faces" in found.stale[0].why


def test_a_file_of_the_submitters_own_stands_apart(base: Record) -> None:
    for code, ranked in (({"file": "mine.py", "sha256": "0" * 64}, 0), ({"package": "mine", "version": "1"}, 1)):
        (board,) = boards_of([vary(base, 0.2, 0, attack="mine", code={"mine": code}, **OWN)])
        assert len(board.ranked) == ranked


# ---- over boards ----


def test_worked_examples_have_no_part_in_the_table_over_boards(base: Record, board: Board) -> None:
    example = [
        vary(base, 0.2, 9 + n, candidates=600, attack=attack, name="cats", worked_example=True)
        for n, attack in enumerate(("side", "strong"))
    ]
    found = rank([*(row.entry for row in board.ranked), *(entry(record) for record in example)])
    assert len(found.boards) == 2
    assert {row.method: row.boards for table in found.overall for row in table.rows}["strong"] == 1
    assert not rank([entry(record) for record in example]).overall


def test_over_boards_counts_ties_and_never_mixes(base: Record, board: Board) -> None:
    cats = {**OWN, "name": "cats", "identity": "2" * 64, "model_sha256": {"x": "2" * 64}}
    second = [vary(base, 0.2, 9 + n, candidates=600, attack=a, **cats) for n, a in enumerate(("side", "strong"))]
    alone = vary(base, 0.2, 20, candidates=600, name="alone")
    longer = [vary(base, 0.2, 30 + n, candidates=800, attack=a, **OWN) for n, a in enumerate(("side", "strong"))]
    entries = [row.entry for row in board.ranked] + [entry(record) for record in (*second, alone, *longer)]
    found = rank(entries)
    assert [(table.candidates, table.kind) for table in found.overall] == [(600, "attacks"), (800, "attacks")]
    rows = {row.method: row for row in found.overall[0].rows}
    assert (rows["strong"].boards, rows["strong"].top) == (2, 2)
    assert (rows["side"].top, rows["side"].beats_plain) == (1, 1)
    assert rows["carlini-uncond"].boards == 1, "a board with one method says nothing about it"


# ---- files ----


def test_records_that_cannot_be_used_are_listed(base: Record, tmp_path: Path) -> None:
    good = store(base, tmp_path)
    content = json.loads(base.text())
    spoilt = {
        "newer.json": json.dumps({**content, "schema": "sidebench-record/99"}),
        "cut.json": base.text()[:100],
        "seeds.json": json.dumps({**content, "seeds": [0, 1]}),
        "bits.json": json.dumps({**content, "candidates": 7}),
        "tuning.json": json.dumps({**content, "tuning": {**TUNING, "points": [*TUNING["points"], EMPTY_POINT]}}),
    }
    for name, text in spoilt.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_leaderboard(tmp_path)
    assert [row.entry.file for row in found.boards[0].ranked] == [good.relative_to(tmp_path).as_posix()]
    assert found.boards[0].ranked[0].entry.id == base.id
    errors = dict(found.unusable)
    assert sorted(errors) == sorted(spoilt)
    assert "sidebench-record/99" in errors["newer.json"] and "update sidebench" in errors["newer.json"]
    assert "cannot be read" in errors["cut.json"]
    assert "results: must have one entry per seed" in errors["seeds.json"]
    assert "hits.training" in errors["bits.json"]
    assert "tuning: every point" in errors["tuning.json"]


def test_a_badge_counts_for_the_same_bytes_only(base: Record, tmp_path: Path) -> None:
    file = store(base, tmp_path)
    good = badge(entry(base))
    checked_file(file).write_text(good.model_dump_json(by_alias=True), encoding="utf-8")
    found = read_leaderboard(tmp_path)
    assert found.boards[0].ranked[0].entry.checked == good and not found.unusable
    assert good.words == "reproduced 32 of 40" and not badge(entry(base), agreed=30).passed
    other = badge(entry(base), record="0" * 64).model_dump_json(by_alias=True)
    for text in (other, "{}", "[", other.replace("32", "41", 1)):
        checked_file(file).write_text(text, encoding="utf-8")
        found = read_leaderboard(tmp_path)
        assert found.boards[0].ranked[0].entry.checked is None
        assert [name for name, _ in found.unusable] == [file.relative_to(tmp_path).as_posix()]


# ---- tables ----


def test_tables_hold_the_same_rows_in_every_format(board: Board) -> None:
    for form in tables.FORMATS:
        text = tables.board_table(board, form)
        assert all(name in text for name in ("strong", "side", "other", "carlini-uncond")), form
    assert r"\toprule" in tables.board_table(board, "tex")
    rows = list(csv.DictReader(io.StringIO(tables.board_table(board, "csv"))))
    assert [(row["rank_best"], row["rank_worst"]) for row in rows] == [("1", "1"), ("2", "3"), ("2", "3"), ("4", "4")]
    assert float(rows[0]["excess"]) == board.ranked[0].record.excess.value


def test_text_of_a_record_stays_text(base: Record) -> None:
    (board,) = boards_of([changed(base, submitter=HUGE, attack="=SUM(1)", processor="50 % & $x_{1}$", **OWN)])
    markdown = tables.board_table(board, "md")
    assert "<b>" not in markdown and "\u202e" not in markdown
    assert not re.search(r"(?<!\\)[\]*`]", re.sub(r"\[-?[\d.]+, [\d.]+\]", "", markdown.splitlines()[2]))
    assert len(markdown.splitlines()) == 3 and markdown.splitlines()[2].replace(r"\|", "").count("|") == 14
    assert r"50 \% \& \$x\_\{1\}\$" in tables.board_table(board, "tex")
    assert len(tables.board_table(board, "txt").splitlines()) == 3
    (row,) = csv.DictReader(io.StringIO(tables.board_table(board, "csv")))
    assert row["attack"] == "'=SUM(1)" and row["submitter"].startswith("<b>")


def test_settings_that_differ_are_told(base: Record) -> None:
    rows = [changed(base, settings={"scale": scale, "steps": 5}, **OWN) for scale in (1, 2)]
    (board,) = boards_of(rows)
    assert set(tables.varying(board.ranked).values()) == {"scale 1", "scale 2"}


def test_seeds_are_means(base: Record) -> None:
    record = vary(base, 0.3, 1, seeds=(0, 1, 2), **OWN)
    found = tables.figures(record)
    bands = [record.headline(seed).bands[0] for seed in (0, 1, 2)]
    assert found.ams == pytest.approx(sum(band.training.ams.value for band in bands) / 3)
    assert found.ams - found.control_ams == pytest.approx(record.excess.value)
    assert found.equivalents == pytest.approx(record.costs[0].denoiser_equivalents)


# ---- README ----


def test_readme_tables_stand_between_the_markers(base: Record, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before, after = f"# x\n\n{tables.BEGIN}", f"{tables.END}\n\nend\n"
    readme.write_text(f"{before}\nold\n{after}", encoding="utf-8")
    empty = tmp_path / "records"
    empty.mkdir()
    with pytest.raises(BadInput, match=r"out of date: run `sidebench leaderboard build --readme"):
        build(empty, None, readme, check=True)
    assert "old" in readme.read_text(encoding="utf-8")
    build(empty, None, readme)
    assert readme.read_text(encoding="utf-8") == f"{before}\n{tables.EMPTY}\n{after}"
    store(base, empty)
    with pytest.raises(BadInput, match="out of date"):
        build(empty, None, readme, check=True)
    assert "tables written" in build(empty, None, readme).text
    assert "| carlini-uncond | somebody" in readme.read_text(encoding="utf-8")
    assert "up to date" in build(empty, None, readme, check=True).text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "records"]


@pytest.mark.parametrize("text", ["", f"{tables.END}{tables.BEGIN}", f"{tables.BEGIN}", tables.BEGIN * 2 + tables.END])
def test_a_readme_without_markers_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="needs the line"):
        build(tmp_path, None, tmp_path / "README.md")


def test_a_readme_names_how_many_rows_it_leaves_out(base: Record) -> None:
    records = [vary(base, 0.2, n, submitter=f"s{n}", **OWN) for n in range(12)]
    text = tables.readme_tables(rank([entry(record) for record in records]))
    assert "and 2 rows more." in text and text.count("| carlini-uncond") == tables.README_ROWS


def test_a_readme_names_how_many_boards_it_leaves_out(base: Record) -> None:
    pairs = [f"pair-{n}" for n in range(6)]
    records = [vary(base, 0.2, n, **{**OWN, "name": name, "submitter": f"s{n}"}) for n, name in enumerate(pairs * 2)]
    text = tables.readme_tables(rank([entry(record) for record in records]))
    assert [name for name in pairs if f"**{name}**" in text] == pairs[: tables.README_BOARDS]
    assert f"Boards that are left to the pages: {len(pairs) - tables.README_BOARDS}." in text


def test_the_tables_of_this_readme_are_up_to_date(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    records = root / "leaderboards" / "records"
    build(records if records.is_dir() else tmp_path, None, root / "README.md", check=True)


@pytest.mark.parametrize(("said", "computed"), [(None, 0.1), (1.0, None), (0.9, 0.1)])
def test_a_full_challenge_refuses_what_is_left_out_or_invented_of_captions(
    said: float | None, computed: float | None, base: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = vary(base, 0.2, 0).quality
    assert quality is not None
    claimed, true = (quality.model_copy(update={"caption_accuracy": value}) for value in (said, computed))
    monkeypatch.setattr("sidebench.benchmark.measures.image_quality.assess", lambda *args, **options: {})
    monkeypatch.setattr("sidebench.benchmark.measures.caption_accuracy.caption_accuracy", lambda *args: {})
    monkeypatch.setattr(challenge_checks, "quality_of", lambda *args: true)
    record = vary(base, 0.2, 1, quality=claimed, **OWN)
    with pytest.raises(BadRecord, match=r"quality\.caption_accuracy"):
        challenge_checks.check_quality(record, {}, cast(Any, None))
    challenge_checks.check_quality(record, {}, cast(Any, None), left_out={"caption_accuracy"})
    challenge_checks.check_quality(vary(base, 0.2, 1, quality=true, **OWN), {}, cast(Any, None))


def test_no_widened_limit_shows_a_leak_of_so_few_groups(base: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record = vary(base, 0.3, 1, candidates=1024)
    assert corrected.corrected_low(record, 400) > 0
    few = AttackHits(np.ones(9, bool), np.zeros(9, bool), np.array([3, 3, 3, 0]), np.zeros(4, int))
    monkeypatch.setattr(corrected, "pooled_hits", lambda *args: [few])
    assert corrected.corrected_low(record, 400) <= 0, "three groups on one side: no rarer than 1 in 8"
