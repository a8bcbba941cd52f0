"""Small plans and one finished run that several files read."""

import copy
import dataclasses
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sidebench.benchmark.contracts import AttackState, SamplerSettings
from sidebench.benchmark.data.fits import Fits, Fitted
from sidebench.benchmark.data.pair import FOLDER, Pair, load_pair
from sidebench.benchmark.environment import collect_seldom, keep_freed_memory
from sidebench.benchmark.files import content_sha256
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.reports import page
from sidebench.benchmark.reports.compare import page as compared_page
from sidebench.benchmark.runs import makers, runner
from sidebench.benchmark.runs.plan import plan_run

SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 3, "batch": 8, "width": 8, "cohesion": -1.0}
GUIDED = ("carlini-cond", "side")
LONGEST = (
    *("gate/test_judge", "house/test_types", "runs/test_runner", "end_to_end/test_families_from_the_hub"),
    *("end_to_end/test_changed_folders", "leaderboards/test_cheats_on_folders", "runs/test_check_attack"),
    *("runs/test_attack_process", "sampling/test_sampler", "runs/test_check_model"),
    *("end_to_end/test_pairs_from_the_hub", "models/test_text_families", "runs/test_growth"),
    *("leaderboards/test_site_in_browser", "end_to_end/test_ray"),
)
"""Files of 25 seconds and more, the longest first."""
LONG = ("end_to_end", "runs", "gate")
"""Folders whose files take longest after those, most of them for whole runs."""

_INLINED = page.inlined


def _plan(out: Path, *, small: dict[str, Any] | None = None, pair: Pair | None = None, **options: Any) -> Any:
    attacks = options.setdefault("attacks", ("carlini-uncond", *GUIDED))
    settings = {name: {**SMALL, **(small or {})} for name in GUIDED if name in attacks}
    options = {"candidates": 40, "device": "cpu", **options}
    plan = plan_run(pair or load_pair("digits"), settings=settings, out=out, **options)
    protocol = plan.protocol.model_copy(update={"sampler": SamplerSettings(steps=3)})
    return dataclasses.replace(plan, protocol=protocol, batching=Batching(micro_batch=8, shard=16))


def _pair_file(folder: Path, **changes: Any) -> Path:
    content = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    content |= {"name": "tiny", "protocol": {"micro_batch": 8, "sampler": {"steps": 3}}, **changes}
    for name in GUIDED:
        content["attacks"][name]["settings"] = SMALL
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-simulations", action="store_true", help="let simulations draw as often as they can")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and refuse a simulation that does not say how often it draws.

    Files go to workers in this order, so a long one at the end would keep one worker busy and the others idle.
    """
    items.sort(key=lambda item: _place(item.path))
    for item in items:
        marked = item.get_closest_marker("simulation") is not None
        if marked != ("draws" in getattr(item, "fixturenames", ())):
            raise pytest.UsageError(f"{item.nodeid}: a simulation is marked `simulation` and takes the fixture `draws`")


def _place(file: Path) -> int:
    """Return where a file stands in the order: a number for each of the longest, then one for a folder of long ones."""
    name = f"{file.parent.name}/{file.stem}"
    if name in LONGEST:
        return LONGEST.index(name)
    return len(LONGEST) + (file.parent.name not in LONG)


@pytest.fixture
def draws(request: pytest.FixtureRequest) -> int:
    """Return how often a simulation draws: few times, or as often as in `tox -e simulations`.

    A test says both in its marker: `@pytest.mark.simulation(few=400, full=2000)`. Its seed and the floors that it
    holds the result to are the same for both.
    """
    numbers = request.node.get_closest_marker("simulation").kwargs
    found: int = numbers["full" if request.config.getoption("--full-simulations") else "few"]
    return found


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: arrays are tiny here, and waiting threads only take turns."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_kept_states() -> None:
    """Keep no states between tests: each looks at what its own run does."""
    os.environ["SIDEBENCH_STATES"] = "off"


@pytest.fixture(scope="session", autouse=True)
def processes_as_the_command_starts_them() -> None:
    """Do as the command does: what is loaded stays and is not searched over and over; freed memory is kept."""
    collect_seldom()
    keep_freed_memory()


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_searched() -> None:
    """Leave out of later searches what earlier files have loaded."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the keys that `leaderboard add` makes out of the home of whoever runs the tests."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session", autouse=True)
def attacks_stay_here() -> Iterator[None]:
    """Call every attack in the tests' own process: one of its own takes 8 s to start, and makes the same images.

    `runs/test_attack_process.py` shows that it does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makers, "is_apart", lambda plan, unit: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_file_is_waited_for() -> Iterator[None]:
    """Leave it to the system when files reach the disk: a run flushes some fifty, and no power is cut here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def pictures_are_drawn_for_tests_of_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the plots out of pages: drawing takes a third of a small run and its report.

    They are drawn in tests/reports/, in the run that several files read, and where a test takes the fixture `drawn`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "reports":
            for module in (page, compared_page):
                patch.setattr(module, "inlined", _without_drawing)
        yield


@pytest.fixture(scope="session")
def fitted() -> dict[str, AttackState]:
    """Return what was fitted to sets of images in this process, by content."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def fits_of_a_pair_are_made_once(request: pytest.FixtureRequest, fitted: dict[str, AttackState]) -> Iterator[None]:
    """Fit to each set of images once, not in every run: most runs here are of digits, and the fits take longest.

    The rooms that fit (data, measures) do it each time. Where a test turns the cache on, it sees the cache alone.
    """
    real = Fits.tensors

    def tensors(self: Fits, what: str, make: Callable[[], AttackState], **settings: Any) -> AttackState:
        if os.environ["SIDEBENCH_STATES"] != "off" or settings.get("code", "") is None:
            return real(self, what, make, **settings)
        key = content_sha256({"what": what, "images": dict(self.content), "settings": settings})
        if key not in fitted:
            fitted[key] = real(self, what, make, **settings)
        self.spent.setdefault(what, Fitted(0.0, 0.0, kept=False))
        return AttackState(dict(fitted[key].tensors), copy.deepcopy(dict(fitted[key].info)))

    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name not in ("data", "measures"):
            patch.setattr(Fits, "tensors", tensors)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the plots of the pages that this test writes."""
    for module in (page, compared_page):
        monkeypatch.setattr(module, "inlined", _INLINED)


def _without_drawing(name: str, picture: page.Picture) -> dict[str, str]:
    return {"title": picture.title, "svg": "<svg/>"}


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Any]:
    """Return a function that plans a tiny run on digits: 40 candidates in shards of 16, 3 steps."""
    return _plan


@pytest.fixture(scope="session")
def make_pair_file() -> Callable[..., Path]:
    """Return a function that writes `tiny.yaml`, the pair digits with a small protocol, into a folder."""
    return _pair_file


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the result of one finished run of all three attacks; nobody may change its folder."""
    result = runner.execute(_plan(tmp_path_factory.mktemp("finished")))
    assert result.metrics is not None and not result.failures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "inlined", _INLINED)
        page.write_report(result.folder)
    return result


@pytest.fixture(scope="session")
def real_records(finished: Any) -> list[Any]:
    """Return the records of the finished run, one per attack: carlini-uncond, carlini-cond, side."""
    from datetime import date

    from sidebench.leaderboards.make_records import make_records

    return make_records(finished.folder, "somebody", today=date(2026, 1, 2))


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Path:
    """Return a copy of the finished run's folder; `make_plan(copied.parent)` goes on with it."""
    target = tmp_path / finished.folder.path.name
    shutil.copytree(finished.folder.path, target)
    return target


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command in this process: (exit code, stdout, stderr)."""

    from sidebench.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, printed.out, printed.err

    return run
