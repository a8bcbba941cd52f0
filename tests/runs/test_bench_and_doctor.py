"""The doctor and the benchmark of speed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from sidebench.benchmark import environment, registry
from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.data.nearest import top_k
from sidebench.benchmark.data.pair import load_pair, pair_names
from sidebench.benchmark.errors import BadInput, SidebenchError, UnsafeFile
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.runs import bench, doctor, ratios, worker_ratios


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
    monkeypatch.setattr(ratios, "SEARCHED", (64, 2_000))
    monkeypatch.setattr(bench, "sampling_of", lambda *_: Sampling(micro_batch=8, sampler=SamplerSettings(steps=3)))


KEYS = {
    "denoiser_seconds",
    "loop_seconds",
    "candidates_per_second",
    "peak_memory_gb",
}
GUIDED = {"guided_parts_seconds", "guided_loop_seconds", "guided_candidates_per_second"}


def test_bench_returns_positive_figures(quick: None) -> None:
    figures = bench.measure(load_pair("digits"), "cpu", "side")
    assert (figures["pair"], figures["device"]) == ("digits", "cpu")
    assert set(figures) >= KEYS | GUIDED
    for name in KEYS | GUIDED:
        assert figures[name] > 0, name
    text = bench.as_text(figures)
    for name in figures.keys() - {"ratios"}:
        assert name.replace("_", " ") in text
    held = {(ratio["what"], ratio["peer"]): ratio for ratio in figures["ratios"]}
    for what in ("sampling loop", "denoiser, bfloat16", "search, 64 values", "search, 3,072 values"):
        (first, *_) = [ratio for (name, _), ratio in held.items() if name == what]
        assert first["ratio"] > 0 and first["answer"] in ("ok", "over") and what in text
    assert held["sampling loop", "diffusers' DDIMPipeline"]["ratio"] > 0
    assert held["denoiser, compiled", "in float32"]["answer"] == "not measured: give --compiled"
    json.dumps(figures)


def test_a_limit_is_still_allowed() -> None:
    assert ratios.judged("a", "b", 1.25, 5.0, 4.0) == ratios.Ratio("a", "b", 1.25, 1.25, "ok")
    assert ratios.judged("a", "b", 1.25, 5.1, 4.0).answer == "over"


def test_a_peer_that_is_not_installed_is_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratios, "_faiss", lambda *_: None)
    found = ratios.of_search(torch.device("cpu"), 1)
    assert [ratio.answer for ratio in found if "faiss" in ratio.peer] == ["not measured: pip install faiss-cpu"] * 2


def test_a_search_is_held_against_one_that_finds_the_same() -> None:
    faiss = pytest.importorskip("faiss")
    queries, references = torch.randn(3, 8), torch.randn(60, 8)
    theirs = ratios._faiss(queries, references)
    assert theirs is not None and faiss
    assert theirs()[1].tolist() == top_k(queries, references, 50).ids.tolist()  # type: ignore[index]


def test_a_network_that_does_not_compile_is_said(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(ratios, "of_search", lambda *_: [])
    figures = bench.measure(load_pair("digits"), "cpu", compiled=True)
    assert figures["ratios"][-1]["answer"] == "not measured: RuntimeError"


@pytest.mark.parametrize("attack", ["carlini-uncond", "ghost"])
def test_bench_of_an_attack_without_guidance_is_refused(
    attack: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratios, "of_search", lambda *_: [])
    with pytest.raises(SidebenchError, match=attack) as caught:
        bench.measure(load_pair("digits"), "cpu", attack)
    assert isinstance(caught.value, BadInput)


ENDS = ("pair_fits_seconds", "end_over_scoring", "end_peak_memory_gb")


def test_bench_of_scoring_returns_positive_figures(quick: None) -> None:
    figures = bench.scoring(260, 500, "cpu")
    assert (figures["candidates"], figures["references_a_side"]) == (260, 500)
    for name in ("scoring_seconds", "scoring_share_of_matrix_product", "peak_memory_gb", "end_seconds", *ENDS):
        assert figures[name] > 0 and name.replace("_", " ") in bench.as_text(figures)
    (held,) = figures["ratios"]
    assert (held["what"], held["peer"], held["limit"]) == ("end of a run", "scoring", 2.0) and held["ratio"] > 0
    with pytest.raises(BadInput, match="n = 50 neighbours of 100 images"):
        bench.scoring(300, 100, "cpu")


def test_two_workers_are_held_against_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spent(pair: str, candidates: int, device: str, workers: int) -> list[float]:
        asked.append((pair, candidates, device, workers))
        return {1: [100.0], 2: [56.0, 52.0]}[workers]

    monkeypatch.setattr(worker_ratios, "spent", spent)
    figures = worker_ratios.measure("digits", 512, "cpu")
    assert asked == [("digits", 512, "cpu", 1), ("digits", 512, "cpu", 2)]
    together, busier = figures["ratios"]
    assert (together["ratio"], together["limit"], together["answer"]) == (pytest.approx(1.08), 1.1, "ok")
    assert (busier["ratio"], busier["limit"], busier["answer"]) == (pytest.approx(0.56), 0.55, "over")
    assert "two workers, processor seconds" in bench.as_text(figures)


def test_what_an_ended_worker_used_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    monkeypatch.setattr(worker_ratios, "_start", lambda command: subprocess.Popen([sys.executable, "-c", burn]))
    assert min(worker_ratios.spent("digits", 8, "cpu", 2)) >= 0.2
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(worker_ratios, "_start", lambda command: subprocess.Popen(failing))
    with pytest.raises(SidebenchError, match="ended with exit code 3"):
        worker_ratios.spent("digits", 8, "cpu", 1)


def test_where_no_system_says_what_a_worker_used_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "wait4")
    (held,) = worker_ratios.measure("digits", 8)["ratios"]
    assert held["ratio"] is None and held["answer"].startswith("not measured")


def test_bench_on_a_missing_device_is_refused() -> None:
    with pytest.raises(BadInput, match="no device 'cuda:99'"):
        bench.measure(load_pair("digits"), "cuda:99")
    assert environment.pick_device("cpu").type == "cpu"
