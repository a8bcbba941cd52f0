"""The site's files: complete, the same for the same records, and silent about what a record may not show."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_records import HUGE, OWN, badge, changed, entry, store, vary

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.registry import find, names, ships
from sidebench.leaderboards import board_charts, site, verdicts
from sidebench.leaderboards.build import build
from sidebench.leaderboards.ranking import Board, BoardRow, Leaderboard, rank
from sidebench.leaderboards.read_records import parse_record
from sidebench.leaderboards.record import Record, Tuning, TuningPoint
from sidebench.leaderboards.svg import ChartLine, ChartPoint, line_chart, scale


class Links(HTMLParser):
    """Collects ids, links and sources, and sees to it that every element is closed."""

    VOID = {"meta", "link", "input", "br", "path", "circle"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.scripts = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.targets += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def found(real_records: list[Record]) -> Leaderboard:
    """Return a leaderboard with everything that a page can show."""
    base = real_records[0]
    rows = [entry(record) for record in real_records]
    rows += [
        entry(vary(base, 0.3, 1, seeds=(0, 1), submitter=HUGE, attack="<i>x</i>", **OWN)),
        entry(vary(base, 0.1, 2, **OWN)),
        entry(vary(base, 0.1, 3, defences={"clip": {"at": 0.5}}, **OWN)),
        entry(changed(base, access="oracle", attack="all-knowing")),
        entry(changed(base, rules="sidebench/0")),
        entry(changed(base, control="none", control_check=None, name="free", worked_example=False)),
    ]
    rows[3] = rows[3]._replace(checked=badge(rows[3]))
    rows[4] = rows[4]._replace(checked=badge(rows[4], agreed=31))
    return rank(rows)._replace(unusable=[("x/<b>.json", "<b>.json, schema: 'sidebench-record/99' is not known here")])


@pytest.fixture(scope="module")
def files(found: Leaderboard) -> dict[str, str]:
    return dict(site.site_files(found))


def test_every_link_leads_to_a_file_of_the_site(files: dict[str, str]) -> None:
    pages = {name: text for name, text in files.items() if name.endswith(".html")}
    assert len(pages) == 2 + 4 + 9
    # The papers of what ships are the only addresses outside.
    shipped = [find("attack", name).paper for name in names("attack") if ships("attack", name)]
    papers = {
        site.PAPER,
        *(f"https://arxiv.org/abs/{said.split()[1].rstrip(',')}" for said in shipped if "arXiv" in said),
    }
    for name, text in pages.items():
        links = Links(text)
        assert links.scripts == 1
        for target in links.targets:
            if target not in ("data:,", "#main", *papers):
                path = (Path("/") / name).parent / target
                assert path.resolve().relative_to("/").as_posix() in files, (name, target)


def test_text_of_a_record_is_never_markup(files: dict[str, str]) -> None:
    for name, text in files.items():
        if name.endswith(".html"):
            assert "<i>x" not in text and "<b>&amp;amp;" not in text and "<b>.json" not in text and "\u202e" not in text
    assert any("&lt;i&gt;x&lt;/i&gt;" in text for text in files.values())


def test_the_same_records_give_the_same_bytes(found: Leaderboard, files: dict[str, str]) -> None:
    assert dict(site.site_files(found)) == files


def test_no_image_path_or_group_name_is_on_a_page(files: dict[str, str], real_records: list[Record]) -> None:
    names = {name for record in real_records for hits in record.hits for name in hits.training_groups}
    for text in files.values():
        assert "<img" not in text and "data:image" not in text and "/tmp" not in text
        assert not names & set(re.findall(r"[0-9a-f]{16}", text))


def test_a_record_page_has_verdict_command_hashes_and_badge(found: Leaderboard, files: dict[str, str]) -> None:
    rows = {
        row.record.claim.attack: row for board in found.boards for row in board.ranked if not row.record.claim.defences
    }
    text = files[f"records/{rows['<i>x</i>'].entry.id}.html"]
    assert "unique groups of training images" in text and "on average" in text and "under each of 2 seeds" in text
    assert "reproduced 32 of 32 drawn" in text and rows["<i>x</i>"].entry.sha256 in text
    real = files[f"records/{rows['side'].entry.id}.html"]
    assert "side.clusters=3" in real and "worked example" in real and "plain sampling (carlini-uncond)" in real
    free = next(row for board in found.boards for row in board.apart if row.record.victim.name == "free")
    text = files[f"records/{free.entry.id}.html"]
    assert "no excess is claimed" in text and "not claimed" in text


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.1, 0.2, "unique groups of training images, excess over held-out images 10.00 to 20.00 %"),
        (-0.1, 0.2, "no excess over held-out images in band high, where at most 20.00 % could have gone unseen"),
        (0.0, 0.2, "no excess over held-out images in band high, where at most 20.00 % could have gone unseen"),
        (-0.2, 0.0, "no excess over held-out images in band high, where at most 0.00 % could have gone unseen"),
        (-0.2, -0.1, "hits less than held-out images, which no leak explains"),
    ],
)
def test_the_verdict_follows_the_interval(real_records: list[Record], low: float, high: float, wanted: str) -> None:
    excess = real_records[0].excess.model_copy(update={"low": low, "high": high})
    (board,) = rank([entry(changed(real_records[0], excess=excess))]).boards
    said = verdicts.verdict(board.ranked[0], board)
    assert wanted in said[0] and said[1] == "It is the only row of its board."


def board_of(base: Record, kind: str, *excesses: tuple[float, float], same: str = "") -> Board:
    """Return a board whose rows have these ends of their excess, ranked as they come."""
    rows = []
    for place, (low, high) in enumerate(excesses):
        excess = base.excess.model_copy(update={"low": low, "high": high})
        name = same or f"m{place}"
        own = {"attack": name} if kind == "attacks" else {"defences": {name: {}}}
        # Without hits: those of the record have another excess, from which corrected limits would be computed.
        record = changed(base, excess=excess, hits=[], submitter=f"team {place}", **own)
        rows.append(BoardRow(entry(record), best=1 + place, worst=1 + place))
    return Board("x", rows, [], [])


@pytest.mark.parametrize(
    ("kind", "excesses", "tied", "said"),
    [
        ("attacks", [(0.1, 0.2)], 1, "The one attack here finds training images."),
        ("attacks", [(-0.1, 0.2)], 1, "The one attack here shows no leak."),
        ("attacks", [(0.0, 0.2)], 1, "The one attack here shows no leak."),
        (
            "attacks",
            [(0.1, 0.2)] * 2,
            2,
            "All 2 attacks find training images. At equal candidates the tests see no difference between them.",
        ),
        (
            "attacks",
            [(0.1, 0.2), (-0.1, 0.2)],
            1,
            "1 of 2 attacks finds training images. At equal candidates m0 finds most.",
        ),
        ("attacks", [(-0.1, 0.1)] * 3, 2, "None of 3 attacks shows a leak."),
        (
            "attacks",
            [(0.1, 0.2)] * 6,
            5,
            "All 6 attacks find training images. At equal candidates most is found by a tie of 5 rows.",
        ),
        ("defences", [(0.1, 0.2)], 1, "Behind the one defence here a leak is left."),
        ("defences", [(-0.1, 0.2)], 1, "Behind the one defence here no leak is seen."),
        (
            "defences",
            [(-0.1, 0.2), (0.1, 0.2)],
            1,
            "Behind 1 of 2 defences no leak is seen. At equal candidates m0 leaves least.",
        ),
        ("defences", [(0.1, 0.2)] * 2, 1, "Behind all 2 defences a leak is left. At equal candidates m0 leaves least."),
        (
            "defences",
            [(-0.1, 0.2)] * 4,
            3,
            "Behind none of 4 defences a leak is seen. At equal candidates least is left by a tie of m0, m1 and m2.",
        ),
    ],
)
def test_a_board_says_what_it_shows(
    real_records: list[Record], kind: str, excesses: list[tuple[float, float]], tied: int, said: str
) -> None:
    board = board_of(real_records[0], kind, *excesses)
    ranked = [row._replace(best=1) if place < tied else row for place, row in enumerate(board.ranked)]
    assert verdicts.board_verdict(board._replace(ranked=ranked)) == said


def test_a_board_names_who_leads_at_equal_cost_too(real_records: list[Record]) -> None:
    board = board_of(real_records[0], "attacks", (0.1, 0.2), (0.1, 0.2), (0.1, 0.2))
    first = "All 3 attacks find training images."
    for by_cost, said in (
        ((3, 1, 1), "At equal candidates m0 finds most. At equal cost most is found by a tie of m1 and m2."),
        ((1, 2, 3), "At equal candidates and at equal cost m0 finds most."),
        ((None, None, None), "At equal candidates m0 finds most."),
    ):
        ranked = [row._replace(best_by_cost=best) for row, best in zip(board.ranked, by_cost, strict=True)]
        assert verdicts.board_verdict(board._replace(ranked=ranked)) == f"{first} {said}"


def test_a_method_made_again_counts_as_a_row(real_records: list[Record]) -> None:
    board = board_of(real_records[0], "attacks", (0.1, 0.2), (0.1, 0.2), same="side")
    assert verdicts.board_verdict(board) == "All 2 rows find training images. At equal candidates side finds most."
    assert verdicts.board_verdict(board._replace(ranked=[], apart=board.ranked)) == "Nothing is ranked here."


def test_boards_of_one_name_say_what_tells_them_apart(real_records: list[Record]) -> None:
    base = real_records[2]
    boards = []
    for guidance in (0.3, 1.0):
        settings = {**base.claim.settings, "guidance_scale": guidance}
        row = BoardRow(entry(changed(base, settings=settings, defences={"clip": {}})))
        boards.append(Board(f"b{guidance}", [row], [], []))
    other = Board("a", [BoardRow(entry(base))], [], [])
    notes = verdicts.board_notes([*boards, other])
    assert notes == {"b0.3": "guidance_scale 0.3", "b1.0": "guidance_scale 1.0", "a": ""}


def test_headings_of_one_pair_say_in_what_its_boards_differ(real_records: list[Record]) -> None:
    few, other = (changed(real_records[0], candidates=number) for number in (512, 2048))
    boards = [Board(str(place), [BoardRow(entry(record))], [], []) for place, record in enumerate((few, other))]
    assert verdicts.heading_notes(boards) == {"0": "512 candidates", "1": "2,048 candidates"}
    assert verdicts.heading_notes(boards[:1]) == {"0": ""}
    victim = few.victim.model_copy(update={"identity": "f" * 64})
    more = Board("2", [BoardRow(entry(changed(few, victim=victim)))], [], [])
    said = verdicts.heading_notes([boards[0], more])
    assert said == {"0": f"model {few.victim.identity[:8]}", "2": "model ffffffff"}
    made = changed(few, made=few.made.model_copy(update={"micro_batch": 7}))
    same = [boards[0], Board("3", [BoardRow(entry(made))], [], [])]
    assert verdicts.heading_notes(same)["3"] == "micro-batch 7"


def test_a_record_leads_to_the_paper_of_what_ships(real_records: list[Record]) -> None:
    plain = site.record_page(BoardRow(entry(changed(real_records[0], attack="carlini-uncond"))), None)
    assert 'access: samples; <a href="https://arxiv.org/abs/2301.13188">arXiv 2301.13188</a>' in plain
    behind = site.record_page(BoardRow(entry(changed(real_records[0], defences={"amg": {}}))), None)
    assert 'defence; <a href="https://arxiv.org/abs/2404.00922">' in behind
    strange = site.record_page(BoardRow(entry(changed(real_records[0], attack="pkg:Mine"))), None)
    assert "access: samples</span>" in strange


def test_the_first_page_leads_to_every_board(found: Leaderboard, files: dict[str, str]) -> None:
    text = files["index.html"]
    for board in found.boards:
        assert f'href="boards/{board.name}.html"' in text and verdicts.board_verdict(board).split(". ")[0] in text
    assert "Every board so far is a worked example" not in text and "Submit a result" in text
    assert "Every board" not in site.index_page(rank([]))


def test_only_worked_examples_are_said_once(real_records: list[Record]) -> None:
    text = site.index_page(rank([entry(record) for record in real_records]))
    assert text.count("worked example") - text.count("of these worked examples") == 1


def test_cost_is_drawn_where_it_differs(real_records: list[Record]) -> None:
    (board,) = rank([entry(record) for record in real_records]).boards
    text = site.board_page(board)
    assert "Excess by cost" in text and text.count("<circle") == 3
    cost = [real_records[0].costs[0].model_copy(update={"attack": "x"})]
    alike = [real_records[0], changed(real_records[0], attack="x", costs=cost, submitter="other")]
    assert "Excess by cost" not in site.board_page(rank([entry(record) for record in alike]).boards[0])


def test_rows_that_differ_in_guidance_alone_make_a_curve(real_records: list[Record]) -> None:
    side, plain = real_records[2], real_records[0]

    def guided(scale: Any, **others: Any) -> Record:
        return changed(side, settings={**side.claim.settings, "guidance_scale": scale, **others}, submitter="one")

    rows = [guided(1.0), guided(0.1), guided(0.3), guided(0.3, clusters=9), guided(True), guided(math.inf), side, plain]
    (board,) = rank([entry(record) for record in rows]).boards
    (line,) = board_charts.guidance_lines(board.ranked)
    assert line.label == "side, one" and [point.x for point in line.points] == [0.1, 0.3, 1.0]
    text = site.board_page(board)
    assert "Excess by guidance" in text and "side, one" in text
    Links(text)
    assert not board_charts.guidance_lines(board.ranked[:2])


def test_records_and_schemas_are_files_of_the_site(real_records: list[Record], tmp_path: Path) -> None:
    written = [store(record, tmp_path / "records") for record in real_records]
    build(tmp_path / "records", tmp_path / "out", None)
    for record, file in zip(real_records, written, strict=True):
        assert (tmp_path / f"out/records/{record.id}.json").read_bytes() == file.read_bytes()
        page = (tmp_path / f"out/records/{record.id}.html").read_text(encoding="utf-8")
        assert f'href="{record.id}.json"' in page and 'href="../schemas/sidebench-record-6.json"' in page
        assert f"&#34;manifest&#34;: &#34;{record.hashes.manifest}&#34;" in page
    assert (tmp_path / "out/schemas/sidebench-record-1.json").is_file()


def test_an_empty_leaderboard_says_so(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    assert "boards: 0" in build(records, tmp_path / "out", None).text
    assert "No record yet." in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "sdk: static" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_a_later_build_removes_what_is_gone_and_nothing_else(real_records: list[Record], tmp_path: Path) -> None:
    records, out = tmp_path / "records", tmp_path / "out"
    written = [store(record, records) for record in real_records]
    build(records, out, None)
    (out / "CNAME").write_text("mine", encoding="utf-8")
    page = next(out.glob(f"records/{real_records[0].id}.html"))
    written[0].unlink()
    build(records, out, None)
    assert not page.exists() and (out / "CNAME").exists() and len(list(out.glob("records/*.html"))) == 2
    (out / "files.json").write_text('["../precious", "/precious", "index.html"]', encoding="utf-8")
    (tmp_path / "precious").write_text("", encoding="utf-8")
    build(records, out, None)
    assert (tmp_path / "precious").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="not an earlier build"):
        build(tmp_path, tmp_path, None)
    with pytest.raises(BadInput, match="not an earlier build"):
        build(tmp_path, tmp_path / "thesis.tex", None)
    with pytest.raises(BadInput, match="no such folder of records"):
        build(tmp_path / "nowhere", None, None)
    with pytest.raises(BadInput, match="--readme FILE"):
        build(tmp_path, None, None, check=True)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 0.17, [0, 0.05, 0.1, 0.15, 0.2]), (-0.03, 0.02, [-0.04, -0.02, 0, 0.02]), (0, 0, [-0.5, 0, 0.5])],
)
def test_scales_have_round_ticks_and_hold_both_ends(low: float, high: float, ticks: list[float]) -> None:
    found = scale(low, high, 4)
    assert found.low <= low and found.high >= high
    assert found.ticks == pytest.approx(ticks)


def test_a_chart_escapes_and_dots_what_is_an_estimate() -> None:
    points = [ChartPoint(10, 5, 4, 6), ChartPoint(20, 8, 6, 10), ChartPoint(40, 11, 7, 15, estimate=True)]
    text = str(line_chart([ChartLine("<b>", points)], "<x>", "y", 'says "<z>"'))
    assert "<x>" not in text and "<z>" not in text and text.count('class="line') == 2
    assert 'class="line estimate s1" d="M' in text
    Links(text)


def tuned(record: Record) -> Record:
    excess = record.excess
    grid = [{"training_steps": steps, "guidance_scale": scale} for steps in (3, 30) for scale in (0.1, 0.3, 1.0)]
    points = [TuningPoint(values=values, excess=excess) for values in grid]
    return record.model_copy(update={"tuning": Tuning(measure=record.measure, candidates=40, points=points)})


def test_a_tuning_is_drawn_and_told(real_records: list[Record]) -> None:
    (board,) = rank([entry(tuned(real_records[2]))]).boards
    shown = site.board_page(board)
    assert "How settings were chosen" in shown and shown.count("<circle") == 6
    Links(shown)
    text = site.record_page(board.ranked[0], board)
    assert text.count("<circle") == 6 and "6 points as a table" in text
    assert '<li class="s2"><bdi>training_steps 30</bdi></li>' in text and ">guidance_scale</text>" in text
    read = parse_record(json.loads(tuned(real_records[2]).text()), "r.json")  # a file has its keys in order
    assert board_charts.tuning_chart(read.tuning)[1] == ["training_steps 3", "training_steps 30"]
    Links(text)
    assert "How the settings were chosen" not in site.record_page(
        rank([entry(real_records[2])]).boards[0].ranked[0], board
    )


def test_the_command_builds_and_warns(real_records: list[Record], tmp_path: Path, capsys: Any) -> None:
    from sidebench.cli import main

    store(real_records[0], tmp_path / "records")
    (tmp_path / "records/bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["leaderboard", "build", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "site")])
    out, err = capsys.readouterr()
    assert not left.value.code and "rows ranked: 1" in out and "left out: bad.json cannot be read" in err
    with pytest.raises(SystemExit) as left:
        main(["leaderboard", "build", "--records", str(tmp_path / "nowhere")])
    assert left.value.code == 2
