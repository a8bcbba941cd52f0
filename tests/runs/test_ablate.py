"""Ablations: attacks of their own, in one run, in one table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidebench.benchmark.contracts import OracleModel
from sidebench.benchmark.data.pair import DataSource, load_pair
from sidebench.benchmark.errors import BadInput, BadSetting, TooFew, UnknownName
from sidebench.benchmark.files import read_info
from sidebench.benchmark.models import load_model
from sidebench.benchmark.registry import find, make_attack
from sidebench.benchmark.results.schema import AttackRatio, Estimate
from sidebench.benchmark.runs import runner, victim
from sidebench.benchmark.runs.ablate import ablation_rows, ablations_of, as_text
from sidebench.benchmark.runs.plugins import make_attacks
from sidebench.benchmark.sampling.views import AuditedModel, view_for
from sidebench.benchmark.stats.intervals import Interval
from sidebench.methods.surrogate import true_labels

ALL = ["carlini-uncond", "carlini-cond", "side"] + [
    f"side--{name}"
    for name in ("random-labels", "true-labels", "no-filter", "drop-rejected", "no-guidance", "distillation")
]


@pytest.fixture(scope="module")
def ablated(make_plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    plan = make_plan(tmp_path_factory.mktemp("ablated"), attacks=tuple(ALL), small={"guidance_scale": 20.0})
    result = runner.execute(plan)
    assert not result.failures and result.metrics is not None
    return result


def test_names_leave_out_what_changes_nothing() -> None:
    digits = load_pair("digits")
    assert ablations_of(digits, "side", {}) == ALL
    unlike = {"side": {"cohesion": -1.0, "objective": "distillation", "guidance_scale": 0.0}}
    assert ablations_of(digits, "side", unlike)[3:] == [
        f"side--{name}" for name in ("random-labels", "true-labels", "drop-rejected", "cross-entropy")
    ]
    split = digits.data.split
    bare = DataSource(source="npz", path="a.npz", images="images", split=split)
    assert "side--true-labels" not in ablations_of(digits.model_copy(update={"data": bare}), "side", {})
    with pytest.raises(BadSetting, match="carlini-uncond names no ablations"):
        ablations_of(digits, "carlini-uncond", {})


def test_an_ablation_has_the_pairs_and_the_users_settings_but_for_what_it_changes() -> None:
    digits = load_pair("digits")
    given = {"side": {"width": 16, "guidance_scale": 2.0}, "side--no-guidance": {"batch": 64}}
    (attack,) = make_attacks(digits, ["side--no-guidance"], given)
    assert attack.name == "side--no-guidance" and attack.access == "white box"
    assert (attack.settings.clusters, attack.settings.width, attack.settings.batch) == (32, 16, 64)
    assert attack.settings.guidance_scale == 0.0
    assert find("attack", "side--true-labels").access == "oracle" and find("attack", "side").access == "white box"


def test_unknown_ablations_name_the_known() -> None:
    with pytest.raises(UnknownName, match="unknown ablation of side 'no-guidence': did you mean no-guidance"):
        find("attack", "side--no-guidence")


def test_the_table_has_a_row_each_and_tells_what_is_plain_sampling(ablated: Any) -> None:
    rows = {row.attack: row for row in ablation_rows(ablated.folder, ablated.metrics, "side", ALL)}
    assert list(rows) == ALL
    some = ablation_rows(ablated.folder, ablated.metrics, "side", ["side", "side--no-filter", "polish"])
    assert [row.attack for row in some] == ["side", "side--no-filter"]
    assert [name for name, row in rows.items() if row.same_images] == ["side--no-guidance"]
    assert rows["side"].difference == "-" and rows["side--no-guidance"].difference != "-"
    assert rows["side--distillation"].equivalents > rows["side"].equivalents, "a teacher costs more"
    text = as_text(list(rows.values()), ablated.metrics)
    assert "carlini-uncond image for image" in text and "40 candidates per seed" in text


def test_differences_are_the_ablations_less_the_whole(ablated: Any) -> None:
    rows = {row.attack: row for row in ablation_rows(ablated.folder, ablated.metrics, "side", ALL)}
    for name, row in rows.items():
        if name != "side":
            assert row.excess is not None and rows["side"].excess is not None
            assert float(row.difference.split(" ")[0]) == pytest.approx(
                100 * (row.excess - rows["side"].excess), abs=0.006
            )


def test_several_seeds_are_preparations_of_one_statement(ablated: Any) -> None:
    def ratio(first: str, second: str, values: tuple[float, float, float] | None, words: str) -> AttackRatio:
        found = None if values is None else Estimate.of(values[0], Interval(*values[1:]))
        same = {"seeds": [0, 1], "preparations": 2, "measure": "rms", "spread": None, "p": 0.01, "ratio_refused": ""}
        rates = {"first_rate": None, "second_rate": None, "verdict": words, "band": "high"}
        return AttackRatio(first=first, second=second, ratio=found, **same, **rates)  # type: ignore[arg-type]

    known = [
        ratio("side", "side--no-filter", (2.0, 1.6, 2.5), "finds more"),
        ratio("side--no-guidance", "side", (1.1, 0.9, 1.3), "no difference seen"),
        ratio("side--no-guidance", "side", (9.9, 9.0, 11.0), "finds more").model_copy(update={"band": "low"}),
        ratio("side", "side--distillation", None, "no ratio"),
    ]
    metrics = ablated.metrics.model_copy(update={"attack_ratios": known})
    rows = {row.attack: row for row in ablation_rows(ablated.folder, metrics, "side", ALL)}
    found = {name.partition("--")[2]: (row.difference, row.verdict) for name, row in rows.items()}
    assert found["no-filter"] == ("0.50 [0.40, 0.62], 2 preparations", "finds fewer")
    assert found["no-guidance"] == ("1.10 [0.90, 1.30], 2 preparations", "no difference seen")
    assert found["distillation"] == ("-", "no ratio") and found["random-labels"] == ("-", "-")
    assert "ratio over preparations" in as_text(list(rows.values()), metrics)


def test_random_labels_leave_a_classifier_that_knows_nothing(ablated: Any) -> None:
    folder = ablated.folder
    sizes = read_info(folder.state_file("side--random-labels.s0"))["state"]["sizes"]
    assert len(sizes) == 3 and sum(sizes) == 24


# ---- True labels ------------------------------------------------------------------------------------


def test_true_labels_are_those_of_the_nearest_training_image() -> None:
    training = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    images = torch.tensor([0.05, 0.6, 0.9, 0.45]).view(4, 1, 1, 1)
    found = true_labels(images, training, torch.tensor([7, 3, 7]), images[:0])
    assert found.labels.tolist() == [1, 0, 1, 0] and found.sizes == [2, 2]
    with pytest.raises(TooFew, match="all one class"):
        true_labels(images, training, torch.tensor([7, 7, 7]), images)


def test_only_an_oracle_is_given_labels(make_plan: Any, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, attacks=("side", "side--true-labels"))
    model = victim.load_victim(plan)
    assert model.labelled is not None
    audited = AuditedModel(model, plan.sampling.sampler, plan.sampling.micro_batch)
    oracle = view_for("oracle", audited, (), model.labelled)
    assert isinstance(oracle, OracleModel) and len(oracle.training) == len(oracle.labels) == 256
    assert not hasattr(view_for("white box", audited, (), model.labelled), "training")
    assert np.unique(oracle.labels.numpy()).tolist() == list(range(10))
    assert victim.load_victim(make_plan(tmp_path, attacks=("side",))).labelled is None


def test_true_labels_without_an_oracle_are_refused_before_any_work(make_plan: Any, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, attacks=("side",))
    audited = AuditedModel(load_model(plan.model), plan.sampling.sampler, plan.sampling.micro_batch)
    attack: Any = make_attack("side", {"labels": "true"})
    with pytest.raises(BadInput, match=r"true labels need an oracle \(`--attack side--true-labels`\)"):
        attack.prepare(audited, None)
    assert not audited.ledger.nfe


# ---- Command ----------------------------------------------------------------------------------------


def test_the_command_prints_the_table(
    make_pair_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = make_pair_file(tmp_path)
    command = ["ablate", str(pair), "--attack", "side-modes", "--candidates", "16", "--set", "side-modes.modes=4"]
    more = ["--set", "side-modes.synthetic_images=24", "--set", "side-modes.walk_rounds=1", "--device", "cpu"]
    code, printed, _ = call(*command, *more)
    assert code == 0
    assert "side-modes--no-walk" in printed and "run folder: ablations/" in printed
    neither = next(line for line in printed.splitlines() if line.startswith("side-modes--neither"))
    assert neither.rstrip().endswith("carlini-uncond image for image")
    code, _, complaint = call("ablate", pair, "--attack", "carlini-uncond")
    assert code == 2 and "carlini-uncond names no ablations" in complaint


def test_an_attack_from_a_file_is_taken_apart_too(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from sidebench.methods.side import Side\nclass Mine(Side):\n    name = 'mine'\n", encoding="utf-8")
    names = ablations_of(load_pair("digits"), f"{file}:Mine", {})
    assert names[2:4] == [f"{file}:Mine", f"{file}:Mine--random-labels"]
    given = {"mine": {"clusters": 4}, f"{file}:Mine": {"width": 16}, "mine--random-labels": {"batch": 7}}
    whole, one = make_attacks(load_pair("digits"), names[2:4], given)
    assert (whole.name, whole.settings.clusters, whole.settings.width) == ("mine", 4, 16)
    assert (one.name, one.settings.clusters, one.settings.width, one.settings.batch) == (
        "mine--random-labels",
        4,
        16,
        7,
    )
