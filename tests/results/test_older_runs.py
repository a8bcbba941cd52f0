"""A run folder of `sidebench/1` is read by every command that reads runs, and never continued."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import RunConflict
from sidebench.benchmark.files import read_json, write_json
from sidebench.benchmark.reports.page import write_report
from sidebench.benchmark.results.rescore import parse_bands, rescore
from sidebench.benchmark.results.run_folder import RunFolder, asked_candidates, rules_of, stored_batching
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.results.sums import ORIGIN, SUMS


@pytest.fixture
def older(copied: Path) -> RunFolder:
    """Return a finished run as it was filed before: numbered shards, and how the work is cut among the rules."""
    folder = RunFolder(copied)
    manifest = read_json(folder.manifest_file)
    for number, numbers in enumerate((range(16), range(16, 32), range(32, 40))):
        for file in [
            *copied.glob(f"images/*/{shard_of(numbers).name}.*"),
            *copied.glob(f"scores/*{shard_of(numbers).name}*"),
        ]:
            file.rename(file.with_name(file.name.replace(shard_of(numbers).name, f"{number:05d}")))
    identity = {key: value for key, value in manifest["identity"].items() if key != "code"}
    identity["protocol"] = {**identity["protocol"], "version": "sidebench/1", **manifest.pop("batching")}
    identity["candidates"] = manifest.pop("candidates")
    for unit in manifest["units"].values():
        del unit["code"]
    write_json(folder.manifest_file, {**manifest, "schema": "sidebench-manifest/1", "identity": identity})
    for name in (SUMS, ORIGIN):
        (copied / name).unlink()
    return folder


def test_it_says_what_it_said(older: RunFolder, finished: Any) -> None:
    bands = parse_bands("near=0:0.3,far=0.3:0.5")
    assert rescore(older, bands) == rescore(finished.folder, bands)
    manifest = read_json(older.manifest_file)
    assert asked_candidates(manifest) == 40 and stored_batching(older) is None
    assert "shard" not in rules_of(manifest) and rules_of(manifest)["version"] == "sidebench/1"
    assert [len(shard.numbers) for shard in older.image_shards("side.s0")] == [16, 16, 8]
    write_report(older)
    assert older.report_file.stat().st_size > 0


def test_it_is_named_and_not_continued(
    older: RunFolder, make_plan: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from sidebench.benchmark.runs.runner import open_folder

    place = older.path.rename(older.path.with_name("digits-40-0123abcd"))
    plan = make_plan(place.parent)
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    plan.folder().path.mkdir()
    open_folder(plan, plan.folder(), plan.identity())
    assert caplog.messages == [
        f"{place} was made by an older sidebench: it is read, not continued; this run is {plan.folder().path.name}"
    ]
    with pytest.raises(RunConflict, match=r"made by an older sidebench \(sidebench-manifest/1\): it can be read, not"):
        open_folder(plan, RunFolder(place), plan.identity())
    assert {file: file.read_bytes() for file in place.rglob("*") if file.is_file()} == before
