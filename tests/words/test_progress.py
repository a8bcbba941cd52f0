"""Progress lines for logs."""

import io
from types import SimpleNamespace

import pytest

from sidebench.benchmark import progress
from sidebench.benchmark.progress import PlainProgress, RichBars, reporter_for


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
    assert lines(stream) == ["images: 100 of 100"]


def test_phase_of_one_call_has_a_line(clock: Clock) -> None:
    stream = io.StringIO()
    PlainProgress(stream)("images", 1, 1)
    assert lines(stream) == ["images: 1 of 1"]


def test_slow_phase_has_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=10.0)
    for done in range(0, 2001, 100):
        report("images", done, 2000)
        clock.now += 4
    found = lines(stream)
    assert found[0] == "images: 300 of 2,000 (25.0/s, 68 s left)"
    assert found[-1] == "images: 2,000 of 2,000 (25.0/s)"
    assert len(found) == 7


def test_rate_counts_only_what_was_done_here(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=10.0)
    report("images", 500, 1000)
    clock.now += 20
    report("images", 600, 1000)
    assert lines(stream) == ["images: 600 of 1,000 (5.0/s, 80 s left)"]


def test_phases_are_counted_apart(clock: Clock) -> None:
    stream = io.StringIO()
    report = PlainProgress(stream, every=10.0)
    report("a", 0, 4)
    clock.now += 20
    report("b", 0, 40)
    report("a", 2, 4)
    clock.now += 20
    report("b", 40, 40)
    assert lines(stream) == ["a: 2 of 4 (0.1/s, 20 s left)", "b: 40 of 40 (2.0/s)"]


def test_no_control_characters(clock: Clock) -> None:
    stream = io.StringIO()
    PlainProgress(stream)("images", 3, 3)
    assert stream.getvalue().isprintable() is False and stream.getvalue().rstrip("\n").isprintable()


def test_bars_only_for_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(reporter_for(io.StringIO()), PlainProgress)
    assert isinstance(reporter_for(Terminal()), RichBars)


def test_bars_take_any_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with RichBars() as report:
        for done in range(3):
            report("[bold] side.s0: images", done, 2)
    printed = capsys.readouterr()
    assert printed.out == "" and "[bold] side.s0: images" in printed.err


def test_a_bar_follows_a_total_that_grows() -> None:
    bars = RichBars()
    for done, total in ((512, 513), (898, 898)):
        bars("decoding", done, total)
    (bar,) = bars._bars.tasks
    assert (bar.completed, bar.total) == (898, 898)
