"""A run on a model of somebody's own: from its file and from a notebook the same, reproduced, and told by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import OWN_MODEL, own_model, tiny_denoiser

from sidebench import execute, from_torch, load_pair, write_report
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.files import read_json
from sidebench.benchmark.models import load_model
from sidebench.benchmark.models.find_model import find_model
from sidebench.benchmark.reports.tables import model_line
from sidebench.benchmark.reports.verdict import headline
from sidebench.benchmark.runs.makers import is_apart
from sidebench.benchmark.runs.replay import planned_again, replay
from sidebench.leaderboards.challenge import challenge
from sidebench.leaderboards.make_records import make_records, write_record


def test_a_run_of_the_file_is_a_run_of_the_module(tmp_path: Path, make_plan: Any) -> None:
    name = own_model(tmp_path)
    live = from_torch(tiny_denoiser(), schedule=("linear", 1000, 1e-4, 0.02), image_shape=(1, 8, 8))
    plans = [
        make_plan(tmp_path, attacks=["carlini-uncond"], candidates=16, model=model, measures=["nl2c:n50:a0.5"])
        for model in (name, live)
    ]
    assert plans[0].folder().path != plans[1].folder().path
    filed, held = (execute(plan) for plan in plans)
    assert filed.metrics is not None and held.metrics is not None
    assert filed.metrics.results == held.metrics.results and filed.metrics.costs == held.metrics.costs
    images = [result.folder.candidate_images("carlini-uncond.s0", 16) for result in (filed, held)]
    for one, other in zip(*images, strict=True):
        assert torch.equal(one, other)

    # Its name is told, its folder is not.
    assert model_line(filed.folder).startswith("model mine.py:mine (SHA-256: mine.py ")
    assert model_line(held.folder).startswith("model TinyDenoiser (SHA-256: live module ")
    write_report(filed.folder)
    page = filed.folder.report_file.read_text(encoding="utf-8")
    assert "mine.py:mine, pixel, mine.py <span" in page
    assert str(tmp_path) not in page + filed.folder.manifest_file.read_text(encoding="utf-8")

    # What nobody can build again makes no record, and leaves the run's process with no attack.
    assert read_json(held.folder.manifest_file)["identity"]["model"]["live"] is True
    with pytest.raises(BadInput, match="attacked an object of a notebook, which nobody can reproduce: no record"):
        make_records(held.folder, "somebody")
    assert not is_apart(plans[1], plans[1].units[0])

    # A record of the file is challenged by whoever names the file again.
    (record,) = make_records(filed.folder, "somebody")
    record_file = write_record(record, tmp_path / "records")
    for model, other in ((None, "model"), (name, r"protocol\.sampler")):  # the tiny run's rules are not the protocol's
        with pytest.raises(BadInput, match=f"the run cannot be made here as it was: {other}"):
            challenge(record_file, filed.folder, 5, model=model, device="cpu")

    # It is reproduced where it is named again and is what it was. The tiny run's own rules are not the protocol's.
    with pytest.raises(BadInput, match="the run cannot be made here as it was"):
        replay(filed.folder, "carlini-uncond", 3)
    with pytest.raises(BadInput, match=r"as it was: protocol\.sampler"):
        planned_again(filed.folder, "carlini-uncond", [0], model=name)
    own_model(tmp_path, OWN_MODEL + "\n# another file\n")
    with pytest.raises(BadInput, match=r"as it was: model\.sha256\.mine\.py was"):
        planned_again(filed.folder, "carlini-uncond", [0], model=name)


def test_what_a_model_raises_in_a_run_is_told_with_its_line(tmp_path: Path, make_plan: Any) -> None:
    fault = "import network\n\n\ndef mine(weights):\n    net = network.Late()\n    net.inside"
    source = OWN_MODEL.replace("\n\ndef mine(weights):\n    net = TinyDenoiser()\n    net", f"\n{fault}")
    name = own_model(tmp_path, source)
    late = (
        "from tiny_networks import TinyDenoiser\nfrom torch import nn\n\n\nclass Late(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inside = TinyDenoiser()\n\n"
        "    def forward(self, x_t, t):\n        if len(x_t) == 8:\n            raise ValueError('eight is too many')\n"
        "        return self.inside(x_t, t)\n"
    )
    (tmp_path / "network.py").write_text(late, encoding="utf-8")
    result = execute(make_plan(tmp_path, attacks=["carlini-uncond"], candidates=16, model=name))
    (error,) = result.failures.values()
    assert str(error) == "carlini-uncond.s0 failed: ValueError: eight is too many (network.py, line 12)"


def test_a_wrong_prediction_type_is_no_clean_bill(tmp_path: Path, make_plan: Any) -> None:
    """The model of `digits`, which leaks, declared to predict something else than it does."""
    inside: Any = load_model(find_model(load_pair("digits"), None, tmp_path).spec)
    wrong = from_torch(
        inside.unet, schedule=("linear", 1000, 1e-4, 0.02), prediction="v_prediction", image_shape=(1, 8, 8)
    )
    metrics = execute(make_plan(tmp_path, attacks=["carlini-uncond"], model=wrong, candidates=64)).metrics
    assert metrics is not None and [found.says for found in metrics.claims] == ["unlike images"]
    assert any("not of the pair's kind" in flag for flag in metrics.flags)
    assert headline(metrics).title == "digits: the images are not of its kind"
