"""From `sidebench detect` to a record on a board: a small text model, labelled by images that it gives back."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_repositories import captioned_pair, text_pipeline
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.pair import Pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.leaderboards.detection_record import parse_detection, unpacked

pytest.importorskip("transformers")
MEMORISED = 12


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Return a pair whose model gives back the own image of the first captions, and a held-out one for the others."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    found = captioned_pair(tmp_path, 27, 13, text_pipeline(tmp_path / "sd"), public=True, made_by="a recipe")
    known = load_references(found)
    own, theirs, captions = known.training.floats(), known.held_out.floats(), known.training.captions or []

    sampled = AuditedModel.sample_prompts

    def sample(view: Any, candidates: Candidates, prompts: Sequence[str], **options: Any) -> Tensor:
        sampled(view, candidates, prompts, **options)  # what it costs is counted
        places = [captions.index(prompt) for prompt in prompts]
        return torch.stack([own[place] if place < MEMORISED else theirs[place % len(theirs)] for place in places])

    monkeypatch.setattr(AuditedModel, "sample_prompts", sample)
    return found


def test_a_detection_becomes_a_record_that_holds(
    pair: Pair, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    file, records = tmp_path / "pair.yaml", tmp_path / "records"
    file.write_text(pair.model_dump_json(), encoding="utf-8")
    asked = ["--detector", "noise-norm", "--detector", "dsm", "--set", "noise-norm.noises=1", "--set", "dsm.noises=1"]
    code, out, err = call("detect", file, *asked, "--device", "cpu", "--out", tmp_path / "detections", "--json")
    assert code == 0, err
    said = json.loads(out)
    (folder,) = (tmp_path / "detections").iterdir()
    code, out, err = call("leaderboard", "add", folder, "--as", "somebody", "--records", records)
    assert code == 0, err
    made = Path(out.strip())
    assert call("leaderboard", "check", "--records", records)[0] == 0
    record = parse_detection(json.loads(made.read_text(encoding="utf-8")), made.name)
    assert [used.detector for used in record.detectors] == ["dsm", "noise-norm"]
    assert (unpacked(record).labels == "memorised").sum() == MEMORISED == said["counts"]["memorised"]["prompts"]
    again = [each.model_dump(mode="json") for each in unpacked(record).figures(record.seed)]
    assert again == said["against"], "every figure follows from the record alone"
    # A record that says more than its ranks do is refused, by the figure.
    content = json.loads(made.read_text(encoding="utf-8"))
    content["against"][0]["rates"][0]["auc"]["value"] = 1.0
    made.write_text(json.dumps(content), encoding="utf-8")
    code, _, err = call("leaderboard", "check", "--records", records)
    assert code == 2 and "against.0.rates.0.auc.value: says 1.0, the ranks say" in err
