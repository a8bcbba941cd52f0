"""Bands are recomputed from stored scores; what those cannot answer is refused."""

from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.contracts import Band
from sidebench.benchmark.errors import BadSetting, CorruptRun, UnknownName
from sidebench.benchmark.results.rescore import parse_bands, rescore


def test_the_same_bands_give_the_same_results(finished: Any) -> None:
    bands = [Band("high", 0.0, 0.5), Band("mid", 0.5, 0.75), Band("low", 0.75, 1.0)]
    again = rescore(finished.folder, bands)
    headline = finished.metrics.results[0].measure
    stored = [result for result in finished.metrics.results if result.measure == headline]
    key = lambda result: result.attack  # noqa: E731
    assert sorted(again, key=key) == sorted(stored, key=key)


def test_a_measure_without_bands_takes_some(finished: Any) -> None:
    (first, *_) = rescore(finished.folder, [Band("near", 0.0, 0.15)], "rms")
    assert first.measure == "rms" and first.bands[0].band == "near"
    wider = first.bands[0].training.ams.count
    assert rescore(finished.folder, [Band("near", 0.0, 0.1)], "rms")[0].bands[0].training.ams.count <= wider


@pytest.mark.parametrize(
    ("band", "measure", "words"),
    [
        (Band("far", 0.0, 1.05), None, "up to 1, not 1.05"),
        (Band("odd", 0.0, 0.33), None, "0.33 is no multiple of the stored bins' 0.05"),
        (Band("odd", 0.01, 0.5), None, "0.01 is no multiple"),
        (Band("far", 0.0, 0.2), "rms", "up to 0.15, not 0.2"),
    ],
)
def test_bands_that_the_scores_cannot_answer_are_refused(
    band: Band, measure: str | None, words: str, finished: Any
) -> None:
    with pytest.raises(BadSetting, match=words):
        rescore(finished.folder, [band], measure)


def test_unknown_measure_is_refused(finished: Any) -> None:
    with pytest.raises(UnknownName, match="did you mean nl2c:n10"):
        rescore(finished.folder, [Band("a", 0.0, 0.5)], "nl2c:n11:a0.5")


@pytest.mark.parametrize("text", ["", "near", "near=1", "=0:1", "near=a:b", "near=1:0.5", "near=0.5:0.5", "a=0:1,b"])
def test_badly_written_bands_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="band"):
        parse_bands(text)


def test_bands_are_parsed_in_order() -> None:
    assert parse_bands("near=0:0.4, far=0.4:0.8") == [Band("near", 0.0, 0.4), Band("far", 0.4, 0.8)]


def test_a_broken_reference_table_is_named(copied: Path) -> None:
    from sidebench.benchmark.results.run_folder import RunFolder

    (copied / "references.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptRun, match=r"references\.parquet"):
        rescore(RunFolder(copied), [Band("near", 0.0, 0.5)])
