"""The doctor and the benchmark of speed."""

import importlib.metadata
from typing import Any

import pytest

from sidebench.benchmark import environment, registry
from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.data.pair import load_pair, pair_names
from sidebench.benchmark.errors import BadInput, SidebenchError, UnsafeFile
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.runs import bench, doctor


def test_doctor_finds_the_parts_of_this_machine() -> None:
    found = {check.name: check for check in doctor.examine()}
    assert {"python", "torch", "device", "memory", "disk", "hub", "attack side", "measure nl2c"} <= set(found)
    embedded = [f"pair {name}" for name in pair_names() if load_pair(name).model.location.startswith("zoo:")]
    assert len(embedded) == 4
    for name in ("torch", "attack side", "measure nl2c", "device", *embedded):
        assert found[name].ok, found[name]
    assert len(found) == len(doctor.examine())


def test_doctor_reports_a_broken_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry._entry_points
    broken = importlib.metadata.EntryPoint("ghost", "no_such_package:Ghost", "sidebench.attacks")

    def points(kind: Any) -> Any:
        return {**real(kind), **({"ghost": broken} if kind == "attack" else {})}

    monkeypatch.setattr(registry, "_entry_points", points)
    checks = doctor.examine()
    (found,) = [check for check in checks if check.name == "attack ghost"]
    assert not found.ok and "no_such_package" in found.found and found.fix
    text = doctor.as_text(checks)
    assert "look  attack ghost" in text and f"attack ghost: {found.fix}" in text
    assert "ok    attack side" in text


def test_doctor_reports_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UnsafeFile("these are other weights")

    monkeypatch.setattr(doctor, "check_files", refuse)
    found = {check.name: check for check in doctor.examine()}
    assert not found["pair digits"].ok and "other weights" in found["pair digits"].found


def test_doctor_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.environment, "PACKAGES", ("torch", "no-such-package"))
    found = {check.name: check for check in doctor.examine()}
    assert not found["no-such-package"].ok and "pip install" in found["no-such-package"].fix


def test_text_of_a_well_machine_has_no_advice() -> None:
    assert doctor.as_text([doctor.DoctorCheck("a", True, "fine", "never shown")]) == "ok    a: fine"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "REPETITIONS", 1)
    monkeypatch.setattr(bench, "SEARCHED", (64, 2_000))
    monkeypatch.setattr(bench, "sampling_of", lambda *_: Sampling(micro_batch=8, sampler=SamplerSettings(steps=3)))


KEYS = {
    "denoiser_seconds",
    "loop_seconds",
    "candidates_per_second",
    "matrix_product_gflops",
    "search_share_of_matrix_product",
    "peak_memory_gb",
}
GUIDED = {"guided_parts_seconds", "guided_loop_seconds", "guided_candidates_per_second"}


def test_bench_returns_positive_figures(quick: None) -> None:
    figures = bench.measure(load_pair("digits"), "cpu", "side")
    assert (figures["pair"], figures["device"]) == ("digits", "cpu")
    assert set(figures) >= KEYS | GUIDED
    for name in KEYS | GUIDED:
        assert figures[name] > 0, name
    for name in figures:
        assert name.replace("_", " ") in bench.as_text(figures)


@pytest.mark.parametrize("attack", ["carlini-uncond", "ghost"])
def test_bench_of_an_attack_without_guidance_is_refused(
    attack: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_search", lambda *_: {})
    with pytest.raises(SidebenchError, match=attack) as caught:
        bench.measure(load_pair("digits"), "cpu", attack)
    assert isinstance(caught.value, BadInput)


ENDS = ("pair_fits_seconds", "end_over_scoring", "end_peak_memory_gb")


def test_bench_of_scoring_returns_positive_figures(quick: None) -> None:
    figures = bench.scoring(260, 500, "cpu")
    assert (figures["candidates"], figures["references_a_side"]) == (260, 500)
    for name in ("scoring_seconds", "scoring_share_of_matrix_product", "peak_memory_gb", "end_seconds", *ENDS):
        assert figures[name] > 0 and name.replace("_", " ") in bench.as_text(figures)
    with pytest.raises(BadInput, match="n = 50 neighbours of 100 images"):
        bench.scoring(300, 100, "cpu")


def test_bench_on_a_missing_device_is_refused() -> None:
    with pytest.raises(BadInput, match="no device 'cuda:99'"):
        bench.measure(load_pair("digits"), "cuda:99")
    assert environment.pick_device("cpu").type == "cpu"
