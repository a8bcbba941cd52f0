"""Progress lines for logs."""

import io
from types import SimpleNamespace

import pytest

from sidebench.benchmark import progress
from sidebench.benchmark.progress import LiveLines, PlainProgress, reporter_for


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_line_goes_to_the_logger_and_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    progress.say("a file\nwith %s and \x1b[31m")
    assert caplog.messages == ["a file with %s and ?[31m"]
    assert [(record.name, record.levelname) for record in caplog.records] == [("sidebench", "WARNING")]


def test_last_line_always_comes(clock: Clock) -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as report:
        for done in range(1, 101):
            report("images", done, 100)
    assert lines(stream) == ["images: 100"]


def test_phase_of_one_call_has_a_line(clock: Clock) -> None:
    stream = io.StringIO()
    PlainProgress(stream)("images", 1, 1)
    assert lines(stream) == ["images: 1"]


def test_a_phase_has_one_line_with_its_time(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream)
    for done in range(0, 2001, 100):
        report("images", done, 2000)
        clock.now += 4
    assert lines(stream) == ["images: 2,000 in 80 s"]


def test_a_long_phase_says_now_and_then_that_it_lives(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=300.0)
    for done in range(0, 1001, 100):
        report("images", done, 1000)
        clock.now += 100
    assert lines(stream) == [
        "images: 300 of 1,000, 12 min left",
        "images: 600 of 1,000, 7 min left",
        "images: 900 of 1,000, 100 s left",
        "images: 1,000 in 17 min",
    ]


def test_time_left_counts_only_what_was_done_here(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=10.0)
    report("images", 500, 1000)
    clock.now += 20
    report("images", 600, 1000)
    assert lines(stream) == ["images: 600 of 1,000, 80 s left"]


def test_phases_are_counted_apart(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=10.0)
    report("a", 0, 4)
    clock.now += 20
    report("b", 0, 40)
    report("a", 2, 4)
    clock.now += 20
    report("b", 40, 40)
    assert lines(stream) == ["a: 2 of 4, 20 s left", "b: 40 in 20 s"]


def test_a_phase_that_begins_again_has_a_time_of_its_own(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream)
    for seconds in (40, 7):
        report("images", 0, 8)
        clock.now += seconds
        report("images", 8, 8)
    assert lines(stream) == ["images: 8 in 40 s", "images: 8 in 7 s"]


def test_no_control_characters(clock: Clock) -> None:
    stream = io.StringIO()
    PlainProgress(stream)("images", 3, 3)
    assert stream.getvalue().isprintable() is False and stream.getvalue().rstrip("\n").isprintable()


def test_live_lines_only_for_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(reporter_for(io.StringIO()), PlainProgress)
    assert isinstance(reporter_for(Terminal()), LiveLines)


def test_lines_take_any_phase_and_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLines() as report:
        report.expect({"[bold] side.s0: images": 2})
        for done in range(3):
            report("[bold] side.s0: images", done, 2)
    assert capsys.readouterr().out == ""


def test_a_line_follows_a_total_that_grows() -> None:
    bars = LiveLines()
    for done, total in ((512, 513), (512, 899)):
        bars("decoding", done, total)
    (bar,) = bars._bars.tasks
    assert (bar.description, bar.completed, bar.total) == ("decoding", 512, 899)


def test_a_phase_that_is_done_leaves_the_screen_and_all_of_it_goes_on() -> None:
    bars = LiveLines()
    bars.expect({"a: candidates": 10, "b: candidates": 10})
    bars("a: candidates", 4, 10)
    assert [(bar.description, bar.completed) for bar in bars._bars.tasks] == [
        ("all candidates", 4),
        ("a: candidates", 4),
    ]
    for phase, done, total in (("a: candidates", 10, 10), ("b: synthetic images", 3, 9)):
        bars(phase, done, total)
    assert [(bar.description, bar.completed) for bar in bars._bars.tasks] == [
        ("all candidates", 10),
        ("b: synthetic images", 3),
    ]
    bars("b: scores", 5, 5)
    assert len(bars._bars.tasks) == 2, "a phase of one call has no line"
