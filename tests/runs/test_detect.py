"""`detect`: labels by replay with known truth, lists by file, what a folder holds, resuming, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_repositories import captioned_pair, text_pipeline
from text_pipelines import sd3
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.pair import Pair, load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import AttackFailed, BadInput, BadSetting, TooFew, UnknownName
from sidebench.benchmark.files import read_table
from sidebench.benchmark.reports.detection import as_text
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.results.detection import DetectionResult, Provenance, read_detection, read_provenance
from sidebench.benchmark.runs import detect as detecting
from sidebench.benchmark.runs.detect import Detected, detect
from sidebench.benchmark.sampling.views import AuditedModel

pytest.importorskip("transformers")
TRAIN, TEST = 27, 13
QUICK = {"noise-norm": {"noises": 1}, "attention-entropy": {"noises": 1}}
LETTERS = "abcdefghijklmnopqrstuvwxyz"

OWN = """
import numpy as np
from sidebench import Detector


class Own(Detector):
    name, title, paper = "own", "own", "none"

    def score(self, model, prompts, candidates):
        assert not model.prompts
        return {answer}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    return captioned_pair(folder, TRAIN, TEST, text_pipeline(folder / "sd"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Write 12 prompts that are called memorised and 14 that are not, two of one family."""
    file = tmp_path / "listed.csv"
    rows = [f"{letter * 3},{int(place < 12)},{'kin' if place > 23 else ''}" for place, letter in enumerate(LETTERS)]
    file.write_text("\n".join(["prompt,label,family", *rows]), encoding="utf-8")
    return file


def run(pair: Pair, out: Path, names: Sequence[str] = ("noise-norm",), **options: Any) -> Detected:
    settings = {name: value for name, value in QUICK.items() if name in names}
    return detect(pair, names, out=out, device="cpu", **{"settings": settings, **options})


def replaying(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the model return the own image of twelve captions always, of three once in four times, of none else.

    Returns the training captions in their order.
    """
    known = load_references(pair)
    own = known.training.floats()
    # What else comes is an image of H or, where there is none, of another caption.
    theirs = known.held_out.floats() if len(known.held_out) else own.roll(1, 0)
    captions = known.training.captions or []

    def sample(view: Any, candidates: Candidates, prompts: Sequence[str], **options: Any) -> Tensor:
        assert candidates.purpose.startswith("label ") and options == {"guidance_scale": 2.0}
        last = candidates.purpose == "label 3"
        places = [captions.index(prompt) for prompt in prompts]
        return torch.stack([own[p] if p < 12 or (p < 15 and last) else theirs[p % len(theirs)] for p in places])

    monkeypatch.setattr(AuditedModel, "sample_prompts", sample)
    return captions


def test_captions_are_labelled_by_whether_their_own_image_comes_back(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = replaying(pair, monkeypatch)
    known = f"{captions[0]}\n  {captions[1].upper()} \n"
    (tmp_path / "more.txt").write_text(f"zebra\nquagga\n{known}", encoding="utf-8")
    found = run(pair, tmp_path / "out", negatives=tmp_path / "more.txt")
    result = found.result
    counts = {label: count.prompts for label, count in result.counts.items()}
    assert counts == {"memorised": 12, "not replayed": 12, "ambiguous": 3, "never seen": TEST + 2}
    assert result.dropped == 2, "captions of the pair were seen, however they are spelt"
    assert result.replay is not None and (result.replay.images, result.replay.measure) == (4, "rms")
    assert result.replay.guidance_scale == 2 and result.replay.steps == 2
    table = read_table(found.folder / "scores.parquet").to_pandas()
    assert table["label"].value_counts().to_dict() == {label: n for label, n in counts.items() if label != "ambiguous"}
    assert list(table.columns) == ["prompt", "family", "label", "noise-norm"] and table["prompt"].is_unique
    noted = read_provenance(found.folder / "provenance.json")
    assert (noted.pair, noted.training_images, noted.held_out_images, noted.device) == ("own", TRAIN, TEST, "cpu")
    assert "unet/config.json" in noted.model_sha256 and len(noted.environments) == 1 and noted.micro_batch == 8
    kept = "".join(file.read_bytes().decode("latin-1") for file in found.folder.rglob("*") if file.is_file())
    assert not any(caption in kept for caption in [*captions, "zebra"]), "no text of a prompt is stored"
    against = {each.negatives: each for each in result.against}
    assert [len(each.rates) for each in against.values()] == [1, 1] and not against["never seen"].refused
    assert against["never seen"].left_out == {
        "0.01": "15 of 100 families that it needs",
        "0.001": "15 of 5,000 families that it needs",
    }
    text = as_text(result)
    assert "12 memorised (12 families)" in text and "no TPR at 1.0% FPR: 15 of 100" in text


def test_without_held_out_images_negatives_come_from_a_file(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = pair.model_copy(update={"control": "none", "data": pair.data.model_copy(update={"held_out": None})})
    replaying(alone, monkeypatch)
    (tmp_path / "more.txt").write_text("\n".join(letter * 2 for letter in LETTERS[:11]), encoding="utf-8")
    found = run(alone, tmp_path / "out", negatives=tmp_path / "more.txt").result
    assert {label: count.prompts for label, count in found.counts.items()} == {
        "memorised": 12,
        "not replayed": 12,
        "ambiguous": 3,
        "never seen": 11,
    }
    assert not found.against[1].refused
    none = run(alone, tmp_path / "out").result
    assert none.against[1].refused.startswith("0 families of other prompts")


def test_a_model_that_replays_nothing_has_nothing_to_detect(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(TooFew, match="no prompt is memorised, so there is nothing to detect"):
        run(pair, tmp_path / "out", images=1)


def test_a_labelled_list_needs_no_replay(pair: Pair, listed: Path, tmp_path: Path) -> None:
    names = ("noise-norm", "attention-entropy")
    found = run(pair, tmp_path / "out", names, prompts=listed)
    assert found.result.replay is None and found.result.counts["memorised"].prompts == 12
    seen, never = found.result.against
    assert (seen.negatives, seen.rates) == ("not replayed", []) and "0 families of other prompts" in seen.refused
    assert {rate.detector for rate in never.rates} == set(names)
    assert never.pairs == [] and "compared from 20 families of either kind on" in as_text(found.result)
    assert found.result.counts["never seen"].families == 13
    used = {each.detector: each for each in found.result.detectors}
    assert (used["noise-norm"].nfe, used["attention-entropy"].nfe) == (2 * 26, 26)
    assert used["noise-norm"].settings["guidance_scale"] == 2, "the pair's own"
    table = read_table(found.folder / "scores.parquet").to_pandas()
    ours, theirs = (table[table["label"] == label]["noise-norm"] for label in ("memorised", "never seen"))
    above = (ours.to_numpy()[:, None] > theirs.to_numpy()[None, :]).mean()
    (rate,) = [rate for rate in never.rates if rate.detector == "noise-norm"]
    assert rate.auc.value == pytest.approx(above)


def test_a_finished_folder_is_read_and_another_seed_is_another_folder(
    pair: Pair, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(pair, tmp_path / "out", prompts=listed)
    other = run(pair, tmp_path / "out", prompts=listed, seed=1)
    assert other.folder != first.folder and other.result.against != first.result.against
    monkeypatch.setattr(detecting, "Bench", None)
    again = run(pair, tmp_path / "out", prompts=listed)
    assert again == first == Detected(first.folder, read_detection(first.folder / "detection.json"))


def test_a_killed_detection_goes_on(pair: Pair, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "BLOCK", 10)
    whole = run(pair, tmp_path / "whole", prompts=listed)
    save = FolderCheckpoints.save

    def killed(self: FolderCheckpoints, name: str, state: AttackState) -> None:
        save(self, name, state)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(FolderCheckpoints, "save", killed)
            run(pair, tmp_path / "killed", prompts=listed)
    assert run(pair, tmp_path / "killed", prompts=listed).result == whole.result


def test_a_prompts_number_does_not_depend_on_the_list(pair: Pair, listed: Path, tmp_path: Path) -> None:
    lines = listed.read_text(encoding="utf-8").splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    tables = [
        read_table(run(pair, tmp_path / "out", prompts=file).folder / "scores.parquet").to_pandas()
        for file in (listed, tmp_path / "turned.csv")
    ]
    assert np.array_equal(tables[0]["noise-norm"], tables[1]["noise-norm"][::-1])


def test_a_detector_from_a_file(pair: Pair, listed: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(answer="np.array([float(prompt < 'm') for prompt in prompts])"), encoding="utf-8")
    found = run(pair, tmp_path / "out", [f"{file}:Own"], prompts=listed)
    assert found.result.against[1].rates[0].auc.value == 1
    for answer, said in (("np.zeros(3)", "must return a finite number for each of 26"), ("1 / 0", "ZeroDivisionError")):
        file.write_text(OWN.format(answer=answer), encoding="utf-8")
        with pytest.raises(AttackFailed, match=f"detector own.*{said}"):
            run(pair, tmp_path / "out", [f"{file}:Own"], prompts=listed)


def test_the_example_of_the_page_is_a_detector(pair: Pair, listed: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text(encoding="utf-8")
    (tmp_path / "loud.py").write_text(page.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    found = run(pair, tmp_path / "out", [f"{tmp_path / 'loud.py'}:Loud"], prompts=listed)
    assert found.result.detectors[0].nfe == 26


def test_a_model_without_cross_attention(pair: Pair, listed: Path, tmp_path: Path) -> None:
    model = pair.model.model_copy(update={"location": str(sd3(tmp_path / "sd3", t5_too=False))})
    other = pair.model_copy(update={"model": model})
    with pytest.raises(BadInput, match="attention-entropy: StableDiffusion3Pipeline: this model has no cross"):
        run(other, tmp_path / "out", ["noise-norm", "attention-entropy"], prompts=listed)
    assert not list((tmp_path / "out").glob("*/detection.json"))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"negatives": "listed"}, BadSetting, "--negatives adds to the pair's captions"),
        ({"names": ["noise-nrom"]}, UnknownName, "did you mean noise-norm"),
        ({"settings": {"dsm": {"noises": 2}}}, UnknownName, "unknown detector of --set 'dsm'"),
        ({"settings": {"noise-norm": {"noise": 2}}}, UnknownName, "did you mean noises"),
        ({"prompts": "few"}, TooFew, "memorised prompts are of 2 families: AUC and TPR need 10"),
        ({"prompts": "bare"}, BadInput, "1 of 1 prompts have no label"),
        ({"prompts": "missing"}, BadInput, "No such file"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(
    options: dict[str, Any],
    kind: type[Exception],
    said: str,
    pair: Pair,
    listed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "few").write_text("1\tcat\n1\tdog\n0\towl\n", encoding="utf-8")
    (tmp_path / "bare").write_text("cat\n", encoding="utf-8")
    monkeypatch.setattr(detecting, "Bench", None)
    paths = {"listed": listed, **{name: tmp_path / name for name in ("few", "bare", "missing")}}
    given: dict[str, Any] = {key: paths[value] if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(kind, match=said):
        run(pair, tmp_path / "out", **{"prompts": listed, **given})
    assert not (tmp_path / "out").exists()


def test_pairs_without_prompts_are_refused(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pair digits has no captions: give it data.captions"):
        run(load_pair("digits"), tmp_path / "out")
    with pytest.raises(BadInput, match="its model of family pixel takes none"):
        run(load_pair("digits"), tmp_path / "out", prompts=listed)


@pytest.mark.parametrize("kind", [DetectionResult, Provenance])
def test_every_key_is_described(kind: type[DetectionResult | Provenance]) -> None:
    schema = kind.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    keys = [(part["title"], key, body) for part in parts for key, body in part.get("properties", {}).items()]
    assert len(keys) > 15 and [(title, key) for title, key, body in keys if "description" not in body] == []
    assert json.dumps(schema)


def test_going_on_under_other_versions_is_noted(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaying(pair, monkeypatch)
    found = run(pair, tmp_path / "out")
    first = read_provenance(found.folder / "provenance.json")
    for described, environments in ((None, 1), ({"versions": {"torch": "0"}}, 2)):
        (found.folder / "detection.json").unlink()
        if described:
            monkeypatch.setattr("sidebench.benchmark.environment.describe", lambda here=described: here)
        run(pair, tmp_path / "out")
        again = read_provenance(found.folder / "provenance.json")
        assert again.started == first.started and len(again.environments) == environments
