"""The release gate: its three answers, that it cannot be fooled by accident, that it resumes, and its baselines."""

import dataclasses
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sidebench.benchmark import models
from sidebench.benchmark.contracts import Measure
from sidebench.benchmark.data.pair import FOLDER, Pair, load_pair
from sidebench.benchmark.data.references import ImageSet, References, load_references, shared_groups
from sidebench.benchmark.errors import BadInput, BadPolicy, UnknownName
from sidebench.benchmark.gate import checks, judge, source
from sidebench.benchmark.gate import decision as gate_decision
from sidebench.benchmark.gate.baseline import RunBaseline
from sidebench.benchmark.gate.checks import check_judge
from sidebench.benchmark.gate.claims import Sides
from sidebench.benchmark.gate.decision import Decision
from sidebench.benchmark.gate.page import write_page
from sidebench.benchmark.gate.policy import Policy, load_policy
from sidebench.benchmark.gate.text import as_dict, as_markdown, as_text, junit
from sidebench.benchmark.progress import PlainProgress
from sidebench.benchmark.runs import makers, runner
from sidebench.benchmark.runs.engine import Place
from sidebench.benchmark.runs.plan import RunPlan, plan_run
from sidebench.cli import main

CLEAN, LEAKY = "control:heldout", "control:mixture:0.2"


def policy(**changes: Any) -> Policy:
    """Return a policy that closed-form models answer in a few shards: a fixed threshold, an excess of 2 %."""
    content: dict[str, Any] = {
        "schema": "sidebench-policy/1",
        "attacks": {"carlini-uncond": {}},
        "measure": "nl2c:n50:a0.5",
        "threshold": {"fixed": 0.5},
        "limits": {"excess": 0.02},
        "budget": {"candidates": 1024},
    }
    return Policy(**{**content, **changes})


def decide(out: Path, model: str | None = CLEAN, pair: Pair | None = None, **changes: Any) -> Decision:
    return judge.gate_pair(pair or load_pair("digits"), policy(**changes), model=model, out=out, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def what_images_alone_say_is_found_once() -> Iterator[None]:
    """Compare the sides and audit the detector once for each set of images: that is half of a decision's time here."""
    comparisons: dict[Any, Any] = {}
    audits: dict[Any, Any] = {}

    def compare(training: ImageSet, held_out: ImageSet, seed: int) -> Any:
        key = _content(training), _content(held_out), seed
        if key not in comparisons:
            comparisons[key] = compared(training, held_out, seed)
        return comparisons[key]

    def audit(references: References, measures: Sequence[Measure], scorer: Any, *more: Any, kinds: Any) -> Any:
        parts = (references.training, references.held_out, references.pool)
        key = *map(_content, parts), *(measure.id for measure in measures), *more, kinds
        if key not in audits:
            audits[key] = audited(references, measures, scorer, *more, kinds=kinds)
        return audits[key]

    compared, audited = checks.two_sample, checks.audit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "two_sample", compare)
        patch.setattr(checks, "audit", audit)
        yield


def _content(part: ImageSet) -> tuple[Any, ...]:
    return part.images.shape, hashlib.sha256(part.images).digest(), part.groups.tobytes(), str(part.families)


def failed(decision: Decision) -> list[str]:
    return [check.name.removeprefix("carlini-uncond: ") for check in decision.checks if not check.ok]


# ---- The three answers ------------------------------------------------------------------------------


def test_a_clean_model_passes_as_soon_as_the_bound_is_low_enough(tmp_path: Path) -> None:
    decision = decide(tmp_path)
    assert (decision.verdict, decision.exit_code, failed(decision)) == ("pass", 0, [])
    (found,) = decision.findings
    assert found.after == 214 and found.candidates == 256 and found.high < 0.02 and found.p_pass <= 0.05
    text = as_text(decision)
    assert "PASS" in text and "3/N = 1.17%" in text and "at most 1.67%" in text


def test_no_hit_is_not_enough_for_a_pass(tmp_path: Path) -> None:
    decision = decide(tmp_path, limits={"excess": 0.002}, budget={"candidates": 512})
    assert (decision.verdict, decision.exit_code) == ("cannot tell", 4)
    assert decision.attacks[0].training_hits == 0
    assert decision.reasons == ["carlini-uncond: the budget of 512 tested candidates is used up"]
    needed = decision.findings[0].needed
    assert needed is not None and f"about {needed:,} candidates would settle it" in as_text(decision)
    # What was said would settle it does.
    more = decide(tmp_path, limits={"excess": 0.002}, budget={"candidates": needed})
    assert more.verdict == "pass"


def test_a_leaking_model_fails_at_once(tmp_path: Path) -> None:
    decision = decide(tmp_path, LEAKY, limits={"excess": 0.02, "group_rate": 0.1, "raw_rate": 0.02})
    assert (decision.verdict, decision.exit_code) == ("fail", 1)
    found = {finding.limit_name: finding for finding in decision.findings}
    assert found["excess"].low > 0.02 and found["raw_rate"].low > 0.02 and found["excess"].candidates == 256
    assert found["group_rate"].rate < 0.1 and found["group_rate"].p_fail > 0.05


def test_the_threshold_is_frozen_before_the_test(tmp_path: Path) -> None:
    rule = {"calibrate": {"rate": 0.02, "candidates": 600}}
    decision = decide(tmp_path, LEAKY, threshold=rule)
    assert decision.verdict == "fail"
    (seen,) = decision.attacks
    assert seen.calibrated_on == 768 and seen.candidates == 256  # whole shards, none of them tested
    folder = source.GateFolder(decision.folder)
    made = folder.score_shards("carlini-uncond.s0", "pixels")[:3]
    measure = source.make_measure("nl2c:n50:a0.5")
    shards = [source.read_scores(folder, "carlini-uncond.s0", "pixels", shard) for shard in made]
    sides = ("training", "held_out")
    ours, theirs = (np.concatenate([shard.best_scores(measure, side) for shard in shards]) for side in sides)
    # So many are owned by held-out images, as many of which there are as of training images.
    assert np.mean((theirs <= seen.threshold) & (theirs <= ours)) == pytest.approx(0.02, abs=0.002)


def test_a_refused_calibration_is_extended_and_then_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidebench.benchmark.stats.thresholds.MIN_GROUPS", 1000)
    rule = {"calibrate": {"rate": 0.05, "candidates": 256, "most": 512}}
    decision = decide(tmp_path, threshold=rule)
    assert decision.verdict == "cannot tell" and not decision.findings
    assert "carlini-uncond: q = 0.05 cannot be calibrated: the 25 held-out hits" in decision.reasons[0]
    assert decision.folder is not None and len(list((decision.folder / "images").rglob("*.safetensors"))) == 2
    assert not failed(decision)  # the images themselves were looked at


def test_a_clear_leak_costs_one_attack_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ATTACK, encoding="utf-8")
    decision = decide(tmp_path, LEAKY, attacks={"carlini-uncond": {}, f"{file}:Broken": {}})
    assert (decision.verdict, decision.not_needed, decision.reasons) == ("fail", ["broken"], [])
    # The level is that of two attacks all the same: which of them was looked at first makes no difference.
    alone = decide(tmp_path, LEAKY)
    assert decision.hypotheses == 2 and decision.findings[0].low < alone.findings[0].low
    assert decision.findings[0].p_fail == pytest.approx(2 * alone.findings[0].p_fail)
    assert "broken: not begun, as the answer was certain before" in as_text(decision)
    suite = junit(decision).getroot()
    assert suite is not None and suite.get("skipped") == "1" and suite.find("testcase/skipped") is not None


def test_nothing_is_made_where_nothing_could_be_claimed(tmp_path: Path) -> None:
    pair = load_pair("digits").model_copy(update={"control": "none"})
    decision = decide(tmp_path, pair=pair)
    assert decision.verdict == "cannot tell" and not decision.attacks and decision.folder is not None
    assert not (decision.folder / "images").exists()


def test_a_policy_may_treat_cannot_tell_as_a_no(tmp_path: Path) -> None:
    decision = decide(tmp_path, limits={"excess": 0.002}, budget={"candidates": 256}, cannot_tell="fail")
    assert (decision.verdict, decision.exit_code) == ("cannot tell", 1)


def test_the_time_budget_ends_the_gate(tmp_path: Path) -> None:
    decision = decide(tmp_path, limits={"excess": 0.002}, budget={"candidates": 4096, "seconds": 1e-6})
    assert decision.verdict == "cannot tell" and "the budget of 1e-06 seconds is used up" in decision.reasons
    assert len(list((decision.folder / "images").rglob("*.safetensors"))) == 1
    assert decision.spent.seconds > 0 == decision.spent.gpu_seconds


def test_any_attack_fails_the_model_and_one_that_broke_takes_the_pass(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ATTACK, encoding="utf-8")
    both: dict[str, Any] = {f"{file}:Broken": {}, "carlini-uncond": {}}
    decision = decide(tmp_path, attacks=both)
    assert (
        decision.verdict == "cannot tell" and "broken" in decision.reasons[0] and "out of luck" in decision.reasons[0]
    )
    assert [finding.attack for finding in decision.findings] == ["carlini-uncond"]
    assert decide(tmp_path, LEAKY, attacks=both).verdict == "fail"


ATTACK = """
from sidebench import Attack

class Broken(Attack):
    name, title, paper, access = "broken", "broken", "none", "samples"

    def generate(self, model, state, candidates):
        raise ValueError("out of luck")
"""

# ---- On an engine ---


class Several:
    """Workers that are threads of this process: what is asked of them is written down."""

    def __init__(self, workers: int) -> None:
        self.workers, self.asked = workers, list[int]()

    @contextmanager
    def crew(self, plan: RunPlan, place: Place, *, tuning: bool = False) -> Iterator[Any]:
        with ThreadPoolExecutor(self.workers) as pool:
            crew = makers.Makers(plan)

            def submit(job: Callable[[Any], Any]) -> Any:
                self.asked[-1] += 1
                return pool.submit(job, crew)

            yield SimpleNamespace(workers=self.workers, submit=submit)

    def noted(self, made: Callable[..., None]) -> Callable[..., None]:
        def make(source: Any, wanted: Sequence[Any]) -> None:
            self.asked.append(0)
            made(source, wanted)

        return make


def on_workers(out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Decision, list[int]]:
    """Return a decision that three workers have made shards for, and how many jobs each time."""
    engine: Any = Several(3)
    with monkeypatch.context() as patch:
        patch.setattr(source.MadeOnDemand, "_make", engine.noted(source.MadeOnDemand._make))
        plan: dict[str, Any] = {"model": changes.pop("model", CLEAN), "device": "cpu", "out": out, "engine": engine}
        return judge.gate_pair(load_pair("digits"), policy(**changes), **plan), engine.asked


def made_by(decision: Decision) -> list[str]:
    assert decision.folder is not None
    return sorted(file.relative_to(decision.folder).as_posix() for file in decision.folder.rglob("*.safetensors"))


def test_workers_make_side_by_side_what_is_needed_whatever_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moody: Callable[..., str]
) -> None:
    rule: dict[str, Any] = {"threshold": {"calibrate": {"rate": 0.02, "candidates": 512}}, "limits": {"excess": 0.05}}
    rule |= {"attacks": {"carlini-uncond": {}, moody(): {}}, "budget": {"candidates": 512}}
    alone, (shared, asked) = decide(tmp_path / "alone", **rule), on_workers(tmp_path / "shared", monkeypatch, **rule)
    assert shared.verdict == alone.verdict and shared.findings == alone.findings and made_by(shared) == made_by(alone)
    # Of either attack: the state with both shards of the calibration, and the first test; then the tests of both.
    assert asked == [3, 1, 3, 1, 2] and shared.verdict == "cannot tell"
    assert shared.folder is not None and not (shared.folder / "work").exists()


BROKEN_LATER = """
from sidebench import Attack, Generated

class Broken(Attack):
    name, title, paper, access = "broken", "broken", "none", "samples"

    def generate(self, model, state, candidates):
        if 512 in candidates.numbers:
            raise ValueError("out of luck")
        return Generated(model.sample(candidates))
"""


def test_a_shard_that_fails_beside_others_ends_its_attack_where_its_turn_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(BROKEN_LATER, encoding="utf-8")
    rule: dict[str, Any] = {"attacks": {f"{file}:Broken": {}}}
    rule |= {"threshold": {"calibrate": {"rate": 0.01, "candidates": 1024}}}
    alone, (shared, asked) = decide(tmp_path / "alone", **rule), on_workers(tmp_path / "shared", monkeypatch, **rule)
    assert shared.verdict == alone.verdict == "cannot tell" and shared.reasons == alone.reasons
    assert "out of luck" in shared.reasons[0] and asked == [4], "nor tried a second time"


def test_an_engine_has_nothing_to_make_of_a_finished_run(finished: Any, call: Callable[..., Any]) -> None:
    code, out, err = call("gate", finished.folder.path, "--policy", "example", "--engine", "ray")
    assert (code, out) == (2, "") and "is a finished run, of which nothing has to be made: --engine goes with" in err


# ---- Several preparations ---------------------------------------------------------------------------

MOODY = """
import numpy as np
import torch
from sidebench import Attack, AttackState, Generated

class Moody(Attack):
    name, title, paper, access = "moody", "moody", "none", "samples"

    def prepare(self, model, budget):
        return AttackState({}, {"seed": budget.seed})

    def generate(self, model, state, candidates):
        images = model.sample(candidates)
        if state.info["seed"] in LEAKS:
            known = torch.from_numpy(np.load(FILE)).float() / 255
            for row, number in enumerate(candidates.numbers):
                if number % 4 == 0:
                    images[row] = known[number % len(known)]
        return Generated(images)
"""


@pytest.fixture
def moody(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes an attack which finds training images under the seeds that it is given alone."""

    def write(*leaks: int) -> str:
        file, images = tmp_path / f"moody{len(leaks)}.py", tmp_path / "images.npy"
        np.save(images, judge.load_references(load_pair("digits")).training.images)
        code = MOODY.replace("LEAKS", repr(leaks)).replace("FILE", repr(str(images)))
        file.write_text(code, encoding="utf-8")
        return f"{file}:Moody"

    return write


def test_all_preparations_must_pass(tmp_path: Path, moody: Callable[..., str]) -> None:
    attacks: dict[str, Any] = {"carlini-uncond": {}, moody(): {}}
    decision = decide(tmp_path, attacks=attacks, preparations=2)
    assert decision.verdict == "pass" and decision.hypotheses == 3
    # What prepares nothing is judged once; the others have thresholds, candidates and checks of their own.
    names = ["carlini-uncond", "moody.s0", "moody.s1"]
    assert [found.attack for found in decision.findings] == [seen.attack for seen in decision.attacks] == names
    assert all(found.p_pass <= 0.05 for found in decision.findings)
    assert {check.name for check in decision.checks} > {f"{name}: sample quality" for name in names}
    assert dict(decision.preparations) == {"moody": [0, 1]} == as_dict(decision)["preparations"]
    assert "on these images, of these 2 preparations of moody (seeds 0 to 1): any of them fails" in as_text(decision)
    suite = junit(decision).getroot()
    assert suite is not None and [case.get("classname") for case in suite][:3] == names
    assert "moody.s1" in as_markdown(decision)


def test_any_preparation_fails_the_model(tmp_path: Path, moody: Callable[..., str]) -> None:
    attacks: dict[str, Any] = {moody(1): {}}
    one = decide(tmp_path, attacks=attacks)
    assert one.verdict == "pass" and "of this preparation of moody (seed 0): another one may find more" in as_text(one)
    both = decide(tmp_path, attacks=attacks, preparations=2)
    assert both.verdict == "fail" and both.folder == one.folder
    first, second = both.findings
    assert first.p_pass <= 0.05 and second.attack == "moody.s1" and second.p_fail <= 0.05 and second.low > 0.02
    # Each is tested at alpha / 2: what is shown of the second alone is sharper.
    alone = decide(tmp_path, attacks=attacks, seed=1)
    assert alone.findings[0].low > second.low and second.p_fail == pytest.approx(2 * alone.findings[0].p_fail)
    write_page(both, tmp_path / "gate.html")
    assert "moody.s1: excess" in (tmp_path / "gate.html").read_text(encoding="utf-8")


def test_a_preparation_that_cannot_be_told_takes_the_pass(tmp_path: Path, moody: Callable[..., str]) -> None:
    decision = decide(tmp_path, attacks={moody(): {}}, preparations=2, limits={"excess": 0.008})
    assert decision.verdict == "pass"
    decision = decide(
        tmp_path, attacks={moody(): {}}, preparations=2, limits={"excess": 0.008}, budget={"candidates": 256}
    )
    assert decision.verdict == "cannot tell"
    assert decision.reasons == [f"moody.s{s}: the budget of 256 tested candidates is used up" for s in (0, 1)]


def test_a_run_and_a_baseline_have_preparations_by_seed(tmp_path: Path, moody: Callable[..., str]) -> None:
    pair, attack = load_pair("digits"), moody(1)
    options: dict[str, Any] = {"model": CLEAN, "device": "cpu", "out": tmp_path, "measures": ["nl2c:n50:a0.5"]}
    run = runner.execute(plan_run(pair, attacks=[attack], seeds=(0, 1), candidates=256, **options)).folder
    rules: dict[str, Any] = {"attacks": {attack: {}}, "preparations": 2}
    from_run, from_model = judge.gate_run(run, pair, policy(**rules)), decide(tmp_path, **rules)
    assert from_run.findings == from_model.findings and from_run.verdict == from_model.verdict == "fail"
    assert from_run.unchecked == ["model path: the attacked model is not at hand"]
    one = judge.gate_run(run, pair, policy(attacks={attack: {}}))
    assert one.unchecked[0] == (
        "moody: the run has seed 1 too, and the policy judges seed 0 alone; with preparations: 2 in it, seeds 0 and 1 "
        "are judged"
    )
    assert f"not checked: {one.unchecked[0]}" in as_text(one)
    longer = judge.gate_run(run, pair, policy(**rules, limits={"excess": 0.9, "group_rate": 0.002}))
    again = f"sidebench run digits --attack moody --seed 0 --seed 1 --candidates 1024 --out {tmp_path}"
    assert len(longer.reasons) == 2 and all(reason.endswith(again) for reason in longer.reasons)
    with pytest.raises(BadInput, match=r"the policy wants moody under seed 2, .*run the attack too"):
        judge.gate_run(run, pair, policy(attacks={attack: {}}, preparations=3))
    margin = policy(**rules, **MARGIN)
    same = judge.gate_run(run, pair, margin, baseline=RunBaseline(run.path))
    assert (
        same.verdict == "pass"
        and [(seen.paired, seen.baseline) for seen in same.attacks] == [(True, f"baseline {run.path.name}")] * 2
    )
    assert [found.rate for found in same.findings] == [0, 0]


@pytest.mark.parametrize(
    ("prepares", "judged", "more", "words"),
    [
        (True, [0], [1, 2], "seeds 1 and 2 too, and the policy judges seed 0 alone; with preparations: 3 in it, seeds"),
        (True, [0, 1], [2, 4], "judges seeds 0 and 1 alone; with preparations: 3 in it, seeds 0, 1 and 2 are judged"),
        (True, [3], [9], "judges seed 3 alone: it takes seeds in a row, from 3 on"),
        (False, [0], [1], "seed 0 alone, since it prepares nothing: what counts are more candidates of that seed"),
    ],
)
def test_why_seeds_of_a_run_are_not_judged(prepares: bool, judged: list[int], more: list[int], words: str) -> None:
    attack: Any = SimpleNamespace(name="mine", prepares=lambda: prepares)
    assert words in source._why_not(attack, judged, more)


# ---- It cannot be fooled by accident ----------------------------------------------------------------


def decode_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let every model that is loaded decode its samples with this change."""
    load = models.load_model

    def changed(spec: Any) -> Any:
        model = load(spec)
        decode = model.decode
        monkeypatch.setattr(model, "decode", lambda x_0: change(decode(x_0)), raising=False)
        return model

    monkeypatch.setattr(models, "load_model", changed)


def noise(images: torch.Tensor) -> torch.Tensor:
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (noise, ["sample quality", "model path"]),
        (lambda images: torch.full_like(images, 0.5), ["broken images", "model path"]),
        (lambda images: torch.full_like(images, float("nan")), ["broken images", "model path"]),
        (lambda images: images / 2 + 0.5, ["sample quality", "preprocessing", "model path"]),
        (lambda images: images.flip(2), ["sample quality", "preprocessing", "model path"]),
        (lambda images: (2 * images - 1).clamp(0, 1), ["sample quality", "model path"]),
        (lambda images: 1 - images, ["sample quality", "preprocessing", "model path"]),
    ],
    ids=["noise", "constant", "nan", "half the range", "upside down", "-1 to 1 cut off", "inverted"],
)
def test_a_broken_model_cannot_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor], names: list[str]
) -> None:
    decode_with(monkeypatch, change)
    decision = decide(tmp_path)
    assert decision.verdict == "cannot tell" and decision.exit_code == 4
    assert failed(decision) == names
    assert all(f"cannot pass: carlini-uncond: {name}: " in as_text(decision) for name in names)
    assert decision.findings[0].p_pass <= 0.05  # the statistics alone would have let it through


def test_a_failed_check_does_not_hide_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidebench.benchmark.gate.checks.UNLIKE", 0.0)
    decision = decide(tmp_path, LEAKY)
    assert decision.verdict == "fail" and failed(decision) == ["sample quality"]


def coloured(folder: Path, size: int = 8, images: int = 500, channels: int = 3) -> Pair:
    """Write digits in red and some green as an npz file with its pair file; return the pair."""
    from sklearn.datasets import load_digits

    grey = np.rint(load_digits().images[:images] * (255 / 16)).astype(np.uint8)
    grey = grey.repeat(size // 8, 1).repeat(size // 8, 2)
    colours = np.stack([grey, grey // 2, np.zeros_like(grey)], axis=-1)
    np.savez(folder / "images.npz", images=colours[..., :channels])
    content = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    split = {"seed": 1, "duplicate_rms": 0.0, "training": 150, "held_out": 150, "pool": 200}
    content |= {"name": "coloured", "data": {"source": "npz", "path": "images.npz", "images": "images", "split": split}}
    content["protocol"] = {"micro_batch": 64, "sampler": {"steps": 3}}
    (folder / "coloured.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_pair(str(folder / "coloured.yaml"))


def test_swapped_channels_cannot_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = coloured(tmp_path)
    assert decide(tmp_path, pair=pair).verdict == "pass"
    decode_with(monkeypatch, lambda images: images.flip(1))
    decision = decide(tmp_path / "other", pair=pair)
    assert decision.verdict == "cannot tell" and "preprocessing" in failed(decision)
    assert "best with the channels reversed" in as_text(decision)


def test_a_leak_that_a_change_of_the_images_hides_cannot_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What mirroring or swapped channels do to the statistics of natural photographs: next to nothing.
    monkeypatch.setattr("sidebench.benchmark.gate.checks.UNLIKE", 10.0)
    monkeypatch.setattr("sidebench.benchmark.gate.checks.BETTER", 0.0)
    decode_with(monkeypatch, lambda images: images.flip(3))
    decision = decide(tmp_path, LEAKY)
    assert decision.verdict == "cannot tell" and "hidden leak" in failed(decision)
    assert decision.findings[0].p_pass <= 0.05  # as they are, the copies hit nothing
    (said,) = [check.said for check in decision.checks if "hidden leak" in check.name]
    assert said.startswith("mirrored, 21.1% of the candidates hit") and "0.0% as they are" in said
    clean = decide(tmp_path / "clean")
    assert clean.verdict == "cannot tell" and "hidden leak" not in failed(clean)


def test_references_in_another_range_cannot_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = judge.load_references

    def dark(*arguments: Any) -> References:
        references = load(*arguments)
        sides = ("training", "held_out")
        parts = {side: getattr(references, side) for side in sides}
        return dataclasses.replace(
            references, **{side: dataclasses.replace(part, images=part.images // 16) for side, part in parts.items()}
        )

    monkeypatch.setattr(judge, "load_references", dark)  # as where levels 0 to 16 were stored without a scale
    decision = decide(tmp_path)
    assert decision.verdict == "cannot tell" and "sample quality" in failed(decision)
    assert decision.findings[0].p_pass <= 0.05


def test_references_of_another_size_cannot_pass(tmp_path: Path) -> None:
    decision = decide(tmp_path, model=None, pair=coloured(tmp_path, size=16))
    assert decision.verdict == "cannot tell" and failed(decision) == ["references"]
    assert "16x16x3" in as_text(decision) and "8x8x1" in as_text(decision)


@pytest.mark.parametrize("images", [0, 10])
def test_an_empty_reference_set_cannot_pass(tmp_path: Path, images: int) -> None:
    decision = decide(tmp_path, model=None, pair=coloured(tmp_path, images=images, channels=1))
    assert decision.verdict == "cannot tell" and failed(decision) == ["references"]
    assert f"the data set has {images}" in as_text(decision)


def test_a_blind_detector_cannot_pass(tmp_path: Path) -> None:
    decision = decide(tmp_path, threshold={"fixed": 0.05})
    assert decision.verdict == "cannot tell" and failed(decision) == ["detector"]


@pytest.mark.parametrize("limits", [{"excess": 0.02}, {"excess": 0.02, "raw_rate": 0.02}])
def test_without_a_fair_control_no_excess_is_claimed(tmp_path: Path, limits: dict[str, float]) -> None:
    pair = load_pair("digits").model_copy(update={"control": "surrogate"})
    decision = decide(tmp_path, pair=pair, limits=limits)
    assert decision.verdict == "cannot tell" and failed(decision) == ["control"]
    assert [finding.limit_name for finding in decision.findings] == [name for name in limits if name == "raw_rate"]


def test_a_measure_that_a_defence_optimises_cannot_pass_it() -> None:
    measure = source.make_measure("nl2c:n50:a0.5")
    (check,) = check_judge(measure, {"hider": ["pixels"], "other": ["sscd"]})
    assert not check.ok and "defence hider optimises the descriptors of nl2c:n50:a0.5" in check.said
    assert check_judge(measure, {"other": []}) == []


def test_the_gate_asks_who_optimises_its_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = gate_decision.read_json
    optimised = {"optimised_spaces": {"hider": ["pixels"]}}
    monkeypatch.setattr(gate_decision, "read_json", lambda file: {**read(file), **optimised})
    decision = decide(tmp_path)
    assert decision.verdict == "cannot tell" and failed(decision) == ["judge"]


def test_a_raw_rate_needs_no_control(tmp_path: Path) -> None:
    pair = load_pair("digits").model_copy(update={"control": "surrogate"})
    assert decide(tmp_path, pair=pair, limits={"raw_rate": 0.02, "group_rate": 0.02}).verdict == "pass"
    assert decide(tmp_path, LEAKY, pair=pair, limits={"raw_rate": 0.02}).verdict == "fail"


def test_a_pair_without_held_out_images_is_held_to_raw_rates(tmp_path: Path) -> None:
    content = load_pair("digits").model_dump(mode="json", exclude_none=True)
    content["data"]["split"]["held_out"] = 0
    pair = Pair(**{**content, "name": "alone", "control": "none", "measures": []})
    rates: dict[str, Any] = {"measure": "nl2:n10:a0.5", "limits": {"raw_rate": 0.02}}
    assert decide(tmp_path, pair=pair, **rates).verdict == "pass"
    assert decide(tmp_path, LEAKY, pair=pair, **rates).verdict == "fail"
    rule = {"calibrate": {"rate": 0.02, "candidates": 600}}
    decision = decide(tmp_path, pair=pair, **rates, threshold=rule)
    assert decision.verdict == "cannot tell" and "no held-out images to calibrate on" in decision.reasons[0]


# ---- Resuming, caching, and the same decision on a run ----------------------------------------------


def told(decision: Decision) -> dict[str, Any]:
    """Return what a decision says, without times and places."""
    content = as_dict(decision)
    return {key: content[key] for key in ("verdict", "checks", "reasons", "attacks", "findings")}


def test_a_killed_gate_gives_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"excess": 0.008}
    whole = decide(tmp_path / "whole", limits=limits)
    make, made = source.make_shard, []

    def killed(*arguments: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(make(*arguments))

    monkeypatch.setattr(source, "make_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        decide(tmp_path / "parts", limits=limits)
    monkeypatch.setattr(source, "make_shard", make)
    assert whole.findings[0].candidates == 768
    assert told(decide(tmp_path / "parts", limits=limits)) == told(whole)


def test_what_the_folder_holds_is_not_made_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_pair_file: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = load_pair(str(make_pair_file(tmp_path, protocol={"micro_batch": 64, "sampler": {"steps": 3}})))
    first = decide(tmp_path, None, pair, attacks={"side": {}}, budget={"candidates": 256})
    assert first.folder is not None and first.attacks[0].attack == "side" and first.attacks[0].candidates == 256

    def refuse(*_: Any) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(makers, "prepare_attack", refuse)
    again = decide(tmp_path, None, pair, attacks={"side": {}}, budget={"candidates": 512}, limits={"excess": 0.001})
    assert again.folder == first.folder and again.attacks[0].candidates == 512
    monkeypatch.undo()
    # What was changed since is rebuilt, by whichever gate finds it.
    for name in ("state/side.s0/state.safetensors", "images/side.s0/00000000-00000256.safetensors"):
        content = (first.folder / name).read_bytes()
        (first.folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    decide(tmp_path, None, pair, attacks={"carlini-uncond": {}}, budget={"candidates": 256})
    same = decide(tmp_path, None, pair, attacks={"side": {}}, budget={"candidates": 512}, limits={"excess": 0.001})
    assert told(same) == told(again)
    assert [line.partition(" was changed")[0] for line in caplog.messages] == [
        "state/side.s0/state.safetensors",
        "images/side.s0/00000000-00000256.safetensors",
    ]
    # Another setting is another attack: it starts over, in the same folder, and the other one is kept.
    before = {file: file.stat().st_mtime_ns for file in first.folder.rglob("images/*/*.safetensors")}
    other = decide(tmp_path, None, pair, attacks={"side": {"guidance_scale": 2.0}}, budget={"candidates": 256})
    made = [file for file in before if not file.exists() or file.stat().st_mtime_ns != before[file]]
    assert other.folder == first.folder and {file.parent.name for file in made} == {"side.s0"}
    assert len(made) == 2 and len(list(first.folder.rglob("images/side.s0/*"))) == 1
    units = json.loads((first.folder / "gate-plan.json").read_text())["units"]
    assert units["side.s0"]["settings"]["guidance_scale"] == 2.0 and "carlini-uncond.s0" in units


def test_a_run_gets_the_same_decision_as_its_model(tmp_path: Path) -> None:
    pair = load_pair("digits")
    options: dict[str, Any] = {"attacks": ["carlini-uncond"], "model": CLEAN, "device": "cpu", "out": tmp_path}
    run = runner.execute(plan_run(pair, candidates=256, measures=["nl2c:n50:a0.5"], **options))
    from_run, from_model = judge.gate_run(run.folder, pair, policy()), decide(tmp_path)
    assert from_run.findings == from_model.findings and from_run.attacks == from_model.attacks
    assert from_run.verdict == from_model.verdict == "pass"
    # The control that was attacked is not the pair's model, so its decoding cannot be looked at any more.
    assert "not checked: model path: the attacked model is not at hand" in as_text(from_run)
    assert not from_model.unchecked


def test_the_model_of_a_run_is_checked_where_it_is_at_hand(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = load_pair("digits")
    settings: dict[str, Any] = {"budget": {"candidates": 40}, "limits": {"raw_rate": 0.02}}
    decision = judge.gate_run(finished.folder, pair, policy(**settings))
    assert any(check.name == "carlini-uncond: model path" and check.ok for check in decision.checks)
    decode_with(monkeypatch, lambda images: images.flip(2))
    assert "model path" in failed(judge.gate_run(finished.folder, pair, policy(**settings)))


def test_what_a_run_lacks_is_named(finished: Any) -> None:
    pair, folder = load_pair("digits"), finished.folder
    with pytest.raises(UnknownName, match="measure of this run"):
        judge.gate_run(folder, pair, policy(measure="nl2c:n20:a0.5"))
    with pytest.raises(BadInput, match=r"the policy wants carlini-uncond under seed 7, .* it has carlini-cond\.s0"):
        judge.gate_run(folder, pair, policy(seed=7))
    with pytest.raises(BadInput, match=r"side\.batch was 8, now 128"):
        judge.gate_run(folder, pair, policy(attacks={"side": {}}))
    with pytest.raises(BadInput, match="give the run's own pair file"):
        judge.gate_run(folder, load_pair("digits-clean"), policy())
    decision = judge.gate_run(folder, pair, policy(threshold={"calibrate": {"rate": 0.01, "candidates": 1000}}))
    assert decision.verdict == "cannot tell"
    wanted = 1000 + policy().budget.candidates
    assert decision.reasons == [
        f"carlini-uncond: there are 40 candidates, all are used; the policy takes up to {wanted:,}; the run's own "
        f"command goes on with it: sidebench run digits --attack carlini-uncond --candidates {wanted} "
        f"--out {folder.path.parent}"
    ]


# ---- Baselines --------------------------------------------------------------------------------------

MARGIN = {"limits": {"baseline_margin": 0.02}}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the gate folders of a clean and of a leaking release, some shards each."""
    out = tmp_path_factory.mktemp("releases")
    harsh = {"limits": {"excess": 0.0005}, "budget": {"candidates": 1024}}
    clean = decide(out, CLEAN, **harsh).folder
    leaky = decide(out, LEAKY, limits={"excess": 0.2}, budget={"candidates": 1024}).folder
    assert clean is not None and leaky is not None
    return {"clean": clean, "leaky": leaky}


@pytest.mark.parametrize(
    ("last", "model", "verdict"),
    [("clean", LEAKY, "fail"), ("clean", CLEAN, "pass"), ("leaky", LEAKY, "pass"), ("leaky", CLEAN, "pass")],
)
def test_no_more_than_the_last_release(
    releases: dict[str, Path], tmp_path: Path, last: str, model: str, verdict: str
) -> None:
    decision = judge.gate_pair(
        load_pair("digits"),
        policy(**MARGIN),
        model=model,
        out=tmp_path,
        device="cpu",
        baseline=RunBaseline(releases[last]),
    )
    assert decision.verdict == verdict and decision.findings[0].limit_name == "baseline_margin"


def test_a_baseline_with_too_few_candidates_cannot_tell(releases: dict[str, Path], tmp_path: Path) -> None:
    decision = judge.gate_pair(
        load_pair("digits"),
        policy(limits={"baseline_margin": 0.001}, budget={"candidates": 2048}),
        model=CLEAN,
        out=tmp_path,
        device="cpu",
        baseline=RunBaseline(releases["clean"]),
    )
    assert decision.verdict == "cannot tell" and decision.findings[0].candidates == 1024
    # More candidates would say nothing, so none are made.
    assert decision.attacks[0].candidates == 1024
    assert decision.reasons == [
        f"carlini-uncond: baseline {releases['clean'].name} has no candidates after these; make its run longer"
    ]


def test_a_baseline_under_another_seed_is_compared_without_pairs(releases: dict[str, Path], tmp_path: Path) -> None:
    def against(last: str, seed: int) -> Decision:
        return judge.gate_pair(
            load_pair("digits"),
            policy(**MARGIN, seed=seed),
            model=LEAKY,
            out=tmp_path,
            device="cpu",
            baseline=RunBaseline(releases[last]),
        )

    assert against("clean", 7).verdict == "fail"
    paired, other = against("leaky", 0), against("leaky", 7)
    assert paired.verdict == "pass" and paired.attacks[0].paired and "the same noise" in as_text(paired)
    # The same model: its own pairs never differ, other candidates do, and that takes more of them.
    assert paired.findings[0].rate == 0 != other.findings[0].rate
    assert other.findings[0].candidates > paired.findings[0].candidates
    assert not other.attacks[0].paired and "from other noise, as it has other seeds" in as_text(other)


def test_a_baseline_without_the_attack_is_refused_before_any_work(releases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown attack of baseline gate-digits-.*'side': known: carlini-uncond"):
        judge.gate_pair(
            load_pair("digits"),
            policy(**MARGIN, attacks={"carlini-uncond": {}, "side": {}}),
            model=CLEAN,
            out=tmp_path,
            device="cpu",
            baseline=RunBaseline(releases["clean"]),
        )
    assert not list(tmp_path.rglob("images"))


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "protocol": (lambda m: m["identity"]["protocol"]["sampler"].update(steps=25), r"protocol\.sampler\.steps was 25"),
    "control": (lambda m: m.update(control="surrogate"), "control was 'surrogate', now 'iid'"),
    "reference set": (lambda m: m["data"].update(sha256="0" * 64), r"reference set\.data was '0000"),
    "measure": (lambda m: m["identity"].update(measures=["rms"]), "unknown measure of baseline"),
    "settings": (lambda m: m["units"]["carlini-uncond.s0"].update(settings={"x": 1}), r"carlini-uncond\.x was 1"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_baseline_that_differs_is_refused_by_field(releases: dict[str, Path], tmp_path: Path, field: str) -> None:
    change, message = REFUSED[field]
    baseline = RunBaseline(releases["clean"])
    baseline.manifest = json.loads(json.dumps(baseline.manifest))
    change(baseline.manifest)
    with pytest.raises(BadInput, match=message):
        judge.gate_pair(
            load_pair("digits"), policy(**MARGIN), model=CLEAN, out=tmp_path, device="cpu", baseline=baseline
        )


def test_a_record_is_a_baseline_at_its_own_threshold(tmp_path: Path) -> None:
    from sidebench.leaderboards.gate_baseline import RecordBaseline, read_baseline
    from sidebench.leaderboards.make_records import make_records, write_record

    pair = load_pair("digits")
    options: dict[str, Any] = {"attacks": ["carlini-uncond"], "device": "cpu", "out": tmp_path, "candidates": 256}
    run = runner.execute(plan_run(pair, measures=["nl2c:n50:a0.5"], model=LEAKY, **options))
    record = write_record(make_records(run.folder, "somebody")[0], tmp_path / "records")
    baseline = read_baseline(record)
    assert isinstance(baseline, RecordBaseline)
    measure = source.make_measure("nl2c:n50:a0.5")
    attack = plan_run(pair, **options).units[0].attack
    stored = RunBaseline(run.folder.path)
    groups = load_references(pair).groups()
    left_out = shared_groups(groups)
    sides = Sides.of((groups["training"], groups["held_out"]), (left_out["training"], left_out["held_out"]))
    numbers = np.arange(256)
    told, known = (found.hits(attack, 0, measure, 0.5, sides, numbers) for found in (baseline, stored))
    assert np.array_equal(told.training_hits, known.training_hits)
    assert np.array_equal(told.control_hits, known.control_hits)
    assert sorted(told.training_credits) == sorted(known.training_credits)
    assert told.training_hits.sum() > 10
    with pytest.raises(BadInput, match=r"says what hit at 0\.5, not at 0\.4"):
        baseline.hits(attack, 0, measure, 0.4, sides, numbers)
    with pytest.raises(BadInput, match=r"not at a calibrated threshold: give the policy threshold\.fixed: 0\.5"):
        baseline.seeds(attack, measure, None)
    decision = judge.gate_run(run.folder, pair, policy(limits={"baseline_margin": 0.3}), baseline=baseline)
    assert decision.verdict == "pass" and decision.findings[0].rate == pytest.approx(0)


# ---- Policies, files and the command ----------------------------------------------------------------


def test_the_example_policy_is_complete_and_commented() -> None:
    from sidebench.benchmark.gate.policy import FOLDER as POLICIES

    loaded = load_policy("example")
    assert loaded.limits.excess == 0.02
    assert list(loaded.attacks) == ["carlini-uncond", "side-walk", "side"], "cheap ones first, the strongest among them"
    lines = (POLICIES / "example.yaml").read_text(encoding="utf-8").splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("limit: {excess: 0.01}", r"limit: no such key; did you mean limits\?"),
        ("limits: {exces: 0.01}", r"limits\.exces: no such key; did you mean excess\?"),
        ("limits: {}", "limits: name at least one of excess"),
        ("limits: {excess: 1.5}", r"limits\.excess: Input should be less than 1"),
        ("threshold: {}", "threshold: give calibrate or fixed"),
        ("attacks: {}", "attacks: Dictionary should have at least 1 item"),
        ("attacks: [carlini-uncond, side]", r"attacks: write them as \{carlini-uncond: \{\}, side: \{\}\}"),
        ("threshold: {calibrate: {rate: 0.001, candidates: 300}}", r"a rate of 0.001 takes 10,000 candidates"),
        ("threshold: {calibrate: {rate: 0.1, candidates: 300, most: 200}}", "most is 200, less than candidates: 300"),
        ("limits: {excess: 0.1, excess: 0.9}", "excess stands twice"),
        ("limits: {excess: .nan}", r"limits\.excess: Input should be"),
        ("schema: sidebench-policy/2", "schema: Input should be 'sidebench-policy/1'"),
        ("alpha: [", "is not YAML, line"),
        ("preparations: 0", "preparations: Input should be greater than or equal to 1"),
        ("alpha: 0", "alpha: Input should be greater than 0"),
        ("cannot_tell: shrug", "cannot_tell: Input should be 'stop' or 'fail'"),
    ],
)
def test_a_bad_policy_is_refused_by_key(tmp_path: Path, change: str, message: str) -> None:
    key = change.partition(":")[0]
    content = policy().model_dump(by_alias=True, exclude_none=True)
    content.pop(key, None)
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(content) + change + "\n", encoding="utf-8")
    with pytest.raises(BadPolicy, match=message):
        load_policy(file)


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="No such file or directory; give a file, or a policy that ships"):
        load_policy(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("limits", "baseline", "message"),
    [({"excess": 0.1}, True, "no limits.baseline_margin"), ({"baseline_margin": 0.1}, False, "give --baseline")],
)
def test_policy_and_baseline_go_together(
    releases: dict[str, Path], tmp_path: Path, limits: dict[str, float], baseline: bool, message: str
) -> None:
    last = RunBaseline(releases["clean"]) if baseline else None
    with pytest.raises(BadInput, match=message):
        judge.gate_pair(load_pair("digits"), policy(limits=limits), out=tmp_path, baseline=last)


def test_the_command_leaves_with_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, report, page = tmp_path / "policy.yaml", tmp_path / "gate.xml", tmp_path / "gate.md"
    shown = tmp_path / "gate.html"

    def call(*more: str, **changes: Any) -> int:
        file.write_text(yaml.safe_dump(policy(**changes).model_dump(by_alias=True, exclude_none=True)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["gate", "digits", "--policy", str(file), "--out", str(tmp_path), "--device", "cpu", *more])
        assert isinstance(left.value.code, int)
        return left.value.code

    assert call("--model", CLEAN, "--junit", str(report), "--summary", str(page), "--report", str(shown)) == 0
    assert "<h1>PASS: digits stays within every limit</h1>" in shown.read_text()
    assert capsys.readouterr().out.startswith("PASS: digits stays within every limit\n")
    suite = ET.parse(report).getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0") and int(suite.get("tests") or 0) == 9
    assert page.read_text().startswith("### PASS") and "| carlini-uncond | excess 2.00%" in page.read_text()
    assert call("--model", LEAKY, "--json", "--junit", str(report)) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "fail" and printed["exit_code"] == 1
    assert ET.parse(report).getroot().get("failures") == "1"
    folders = [json.loads(found.read_text()) for found in tmp_path.glob("gate-digits-*/gate.json")]
    assert printed in folders and str(tmp_path) not in json.dumps(folders)
    assert call("--model", CLEAN, "--junit", str(report), limits={"excess": 0.001}, budget={"candidates": 256}) == 4
    suite = ET.parse(report).getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "2")
    assert call("--baseline", str(tmp_path / "nothing")) == 2
    (tmp_path / "file").write_text("")
    assert call("--junit", str(tmp_path / "file" / "gate.xml")) == 2
    assert capsys.readouterr().err.endswith("gate.xml: File exists\n")
    assert call("--summary", str(tmp_path)) == 2
    assert call("--pair", "digits") == 2
    (own, *_) = (found.parent for found in tmp_path.glob("gate-digits-*/gate.json"))
    with pytest.raises(BadInput, match="is a gate's own folder"):
        judge.judge(str(own), policy())
    with pytest.raises(BadInput, match=r"is neither a pair nor a finished run: it has no manifest\.json"):
        judge.judge(str(tmp_path), policy())
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BadInput, match="is a model: name the pair that holds its images"):
        judge.judge(str(tmp_path), policy())


def test_pickled_weights_of_a_candidate_model_need_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def planned(*_: object, allow_pickle: bool, **__: object) -> None:
        asked.append(allow_pickle)
        raise BadInput("asked")

    monkeypatch.setattr(judge, "plan_run", planned)
    for allowed in (False, True):
        with pytest.raises(BadInput, match=r"^asked$"):
            judge.judge("digits", policy(), allow_pickle=allowed)
    assert asked == [False, True]
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="is a finished run: --model, --fresh and --allow-pickle go with a pair"):
        judge.judge(str(tmp_path), policy(), allow_pickle=True)


def test_the_page_shows_how_each_claim_came_about_and_no_image(tmp_path: Path) -> None:
    decision = decide(tmp_path, LEAKY, limits={"excess": 0.02, "group_rate": 0.5})
    nasty = "<script>alert(1)</script>"
    changed = dataclasses.replace(
        decision,
        subject=nasty,
        checks=[check._replace(said=f"{check.said} {nasty} {tmp_path}") for check in decision.checks],
    )
    write_page(changed, tmp_path / "gate.html")
    page = (tmp_path / "gate.html").read_text(encoding="utf-8")
    assert "<script" not in page and str(tmp_path) not in page
    assert not re.search(r"<img|data:image|<image|src=|href=\"(?!#)", page)
    assert page.count("<svg") == 2 and "carlini-uncond: group_rate" in page and "schema: sidebench-policy/1" in page
    for claim, last in zip(decision.claims, decision.findings, strict=True):
        own = claim.course(0.05, 0.05, 2)
        assert own.candidates[-1] == last.candidates and own.rate[-1] == pytest.approx(last.rate)
        assert (own.low[-1], own.high[-1]) == pytest.approx((last.low, last.high))
        assert np.all(np.diff(own.candidates) > 0) and np.all(own.low <= own.high)


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    decision = decide(tmp_path)
    nasty = "<b>[x](http://evil)</b> | `a`\x07"
    changed = dataclasses.replace(
        decision, subject=nasty, findings=[found._replace(attack=nasty) for found in decision.findings]
    )
    text = as_markdown(changed)
    assert "<b>" not in text and "](" not in text.replace("\\](", "") and "\\|" in text
    parsed = ET.fromstring(ET.tostring(junit(changed).getroot()))
    assert "<b>" in (parsed.get("name") or "") and "\x07" not in (parsed.get("name") or "")


# ---- Sides of different size ------------------------------------------------------------------------


def unequal(held_out: int, name: str) -> Pair:
    """Return a shipped pair with fewer held-out images."""
    pair = load_pair(name)
    split = pair.data.split.model_copy(update={"held_out": held_out})
    data = pair.data.model_copy(update={"split": split})
    return pair.model_copy(update={"data": data, "allow_dense_neighbours": True})


EXAMPLE: dict[str, Any] = {"threshold": {"fixed": 1.0}, "limits": {"excess": 0.1}}


def test_a_clean_model_does_not_fail_with_few_held_out_images(tmp_path: Path) -> None:
    decision = decide(tmp_path, pair=unequal(100, "digits-clean"), **EXAMPLE)
    assert decision.verdict in ("pass", "cannot tell") and decision.findings[0].low < 0.1


def test_a_leak_fails_with_few_held_out_images(tmp_path: Path) -> None:
    decision = decide(tmp_path, LEAKY, pair=unequal(64, "digits"))
    assert decision.verdict == "fail" and decision.findings[0].low > 0.02


def test_how_long_a_gate_may_take_is_said_and_its_model_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda spec: told.append("loaded") or load(spec))
    rules = policy(budget={"candidates": 256, "seconds": 600})
    plan: dict[str, Any] = {"model": CLEAN, "device": "cpu", "out": tmp_path}
    shown = judge.gate_pair(load_pair("digits"), rules, **plan, announce=told.append)
    assert told[0] == "loaded" and len(told) == 2
    assert re.match(
        r"up to 256 candidates of each of carlini-uncond: 256 plain samples take about [\d.]+ s here, guided attacks "
        r"several times that; the policy ends it after 10 min$",
        told[1],
    )
    assert shown.verdict == "pass"


def test_every_phase_of_a_gate_ends_and_has_its_line(tmp_path: Path) -> None:
    rule = {"calibrate": {"rate": 0.02, "candidates": 512}}
    rules, stream = policy(threshold=rule, limits={"excess": 0.045}, budget={"candidates": 2048}), io.StringIO()
    with PlainProgress(stream) as progress:
        plan: dict[str, Any] = {"model": CLEAN, "device": "cpu", "out": tmp_path, "progress": progress}
        decision = judge.gate_pair(load_pair("digits"), rules, **plan)
    tested = decision.attacks[0].candidates
    lines = [line.partition(" in ")[0] for line in stream.getvalue().splitlines()]
    looks = [line for line in lines if "look" in line]
    assert decision.verdict == "pass" and tested == 1536, "before the look that comes after 2,048"
    assert lines[-6:] == ["carlini-uncond: calibration: 512", *looks, "checks: 1"]
    ends = enumerate(("256", "512", "1,024", "1,536"), start=1)
    assert looks == [f"carlini-uncond: test, look {number} of at most 4: {done}" for number, done in ends]
