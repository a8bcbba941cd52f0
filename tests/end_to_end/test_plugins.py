"""Plug-ins: skeletons work as written, packages are found, and a broken measure is named."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import Band
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, MeasureFailed, UnknownName
from sidebench.benchmark.measures.rms import Rms
from sidebench.benchmark.measures.zncc import Zncc
from sidebench.benchmark.models import inspect_files
from sidebench.benchmark.models.find_model import find_model
from sidebench.benchmark.reports.catalogue import describe, listing
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.check_attack import NotConformant
from sidebench.benchmark.runs.check_measure import check_measure
from sidebench.benchmark.runs.new_plugin import write_skeleton

# ---- Skeletons --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["attack", "defence", "detector", "measure", "model"])
def test_a_new_package_passes_its_own_test(kind: str, tmp_path: Path) -> None:
    files = write_skeleton(kind, "my-own", tmp_path / "my-own")
    assert {file.name for file in files} == {"pyproject.toml", "my_own.py", "test_my_own.py", "README.md"}
    for file in files:
        assert "{{" not in file.read_text(encoding="utf-8") and "{%" not in file.read_text(encoding="utf-8")
    spec = importlib.util.spec_from_file_location("test_my_own", tmp_path / "my-own" / "test_my_own.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_my_own_conforms()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("atack", "mine", "unknown kind 'atack': did you mean attack"),
        ("attack", "My_Attack", "a name is lower-case letters"),
        ("attack", "../x", "a name is lower-case letters"),
        ("attack", "side", "'side' is registered already"),
        ("measure", "carlini-cond", "registered already"),
        ("model", "side", "'side' is registered already"),
        ("defence", "json", "a Python module of this name exists"),
        ("defence", "numpy", "a Python module of this name exists"),
        ("defence", "class", "a Python module of this name exists"),
    ],
)
def test_names_that_cannot_be_used_are_refused(kind: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((BadInput, UnknownName), match=message):
        write_skeleton(kind, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists already; choose another with --out"):
        write_skeleton("attack", "mine", tmp_path)
    (tmp_path / "regular").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot write to"):
        write_skeleton("attack", "mine", tmp_path / "regular" / "mine")


SKELETONS = ("attack", "defence", "detector", "measure", "model")
"""Kinds of which `sidebench new` writes one."""


# ---- Packages ---------------------------------------------------------------------------------------


def test_entry_points_of_an_installed_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in SKELETONS:
        write_skeleton(kind, f"my-{kind}", tmp_path / kind)
        (tmp_path / f"my_{kind}.py").write_bytes((tmp_path / kind / f"my_{kind}.py").read_bytes())
    info = tmp_path / "others_work-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-work\nVersion: 1.0\n", encoding="utf-8")
    classes = {kind: "my_model" if kind == "model" else f"My{kind.title()}" for kind in SKELETONS}
    points = "".join(f"[sidebench.{kind}s]\nmy-{kind} = my_{kind}:{cls}\n" for kind, cls in classes.items())
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for kind, cls in classes.items():
        assert f"my-{kind}" in registry.names(kind)
        assert registry.find(kind, f"my-{kind}").__name__ == cls
    spec = find_model(load_pair("digits"), "my-model", Path()).spec
    assert set(spec.sha256) == {"others-work", "tensors"} and inspect_files(spec).image_size == (8, 8, 1)
    assert "side" in registry.names("attack"), "the others are still there"


# ---- Measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["rms", "nl2:n50:a0.5", "nl2c:n10:a0.25"])
def test_built_in_measures_conform(measure: str) -> None:
    check_measure(measure)


def as_file(folder: Path, body: str) -> str:
    head = "import numpy as np\nimport torch\nfrom sidebench.benchmark.contracts import Band\n"
    head += "from sidebench.benchmark.measures.rms import Rms\n\n\nclass Mine(Rms):\n    name, space = 'mine', 'mine'\n"
    (folder / "mine.py").write_text(head + body, encoding="utf-8")
    return f"{folder / 'mine.py'}:Mine"


def test_zncc_conforms(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"from {Zncc.__module__} import Zncc\n", encoding="utf-8")
    check_measure(f"{tmp_path / 'mine.py'}:Zncc", shape=(3, 8, 8))


FAULTS = {
    "raises": ("    def descriptors(self, images):\n        return 1 / 0\n", "measure mine failed: ZeroDivisionError"),
    "wrong type": ("    def descriptors(self, images):\n        return images.flatten(1).double()\n", "wanted float32"),
    "wrong length": (
        "    def descriptors(self, images):\n        return images[1:].flatten(1)\n",
        r"wanted float32 \(",
    ),
    "not finite": (
        "    def descriptors(self, images):\n        return (images.flatten(1) / 0).nan_to_num(posinf=torch.inf)\n",
        "descriptors are not finite",
    ),
    "scores of another shape": (
        "    def scores(self, distances, training, held_out, side):\n        return distances[:, :1].ravel()\n",
        "scores returned .* wanted an array of shape",
    ),
    "scores of NaN": (
        "    def scores(self, distances, training, held_out, side):\n        return distances * np.nan\n",
        "scores returned NaN",
    ),
    "radius of another shape": (
        "    def radius(self, training, held_out, side):\n        return 0.1\n",
        "radius returned float, wanted an array",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_measure_that_breaks_is_named(fault: str, tmp_path: Path) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(MeasureFailed, match=message) as caught:
        _search(as_file(tmp_path, body))
    assert "measure mine" in str(caught.value)


def _search(name: str) -> None:
    """Score a few images by a measure, as a run does."""
    import torch

    from sidebench.benchmark.measures.scorer import Scorer
    from sidebench.benchmark.runs.check_measure import made_up_references

    references = made_up_references((1, 4, 4))
    images = torch.from_numpy(references.pool.images[:6])
    scorer = Scorer(references, [registry.find("measure", name)()], 50, torch.device("cpu"))
    found = scorer.score(images, np.arange(6), np.zeros(6, dtype=bool), "mine")
    found.best_scores(scorer.measures[0], "training")


BAD = {
    "larger is nearer": (
        "    def scores(self, distances, training, held_out, side):\n        return -distances\n",
        "a copy does not score better",
    ),
    "depends on its batch": (
        "    def descriptors(self, images):\n        return (images - images.mean()).flatten(1)\n",
        "descriptor alone is .* off",
    ),
    "changes the images": (
        "    def descriptors(self, images):\n        return images.mul_(0.5).flatten(1)\n",
        "changes the images",
    ),
    "blind": (
        "    def descriptors(self, images):\n        return images[:, :, :1, :1].flatten(1).round()\n",
        "a copy of a training image is not matched with it",
    ),
    "radius elsewhere": (
        "    def radius(self, training, held_out, side):\n        return np.full(len(training.ids), 0.3)\n",
        "at its radius the score is 0.3, not 0.15",
    ),
    "bands apart from the floor": ("    bands = (Band('high', 0.0, 0.5),)\n", "closest first, without overlap"),
    "another id": ("    id = 'yours'\n", "does not begin with the name"),
}


@pytest.mark.parametrize("fault", BAD)
def test_measures_that_do_not_conform_are_caught(fault: str, tmp_path: Path) -> None:
    body, message = BAD[fault]
    with pytest.raises(NotConformant, match=message):
        check_measure(as_file(tmp_path, body))


def test_bands_are_those_of_the_measures_own_direction() -> None:
    from sidebench.benchmark.runs.check_measure import check_bands

    class Similar(Zncc):
        bands = (Band("high", 0.99, 1.0), Band("mid", 0.95, 0.99))

    check_bands(Similar())
    Similar.bands = Similar.bands[::-1]
    with pytest.raises(NotConformant, match="closest first"):
        check_bands(Similar())


def test_images_of_a_run_outlive_a_measure_that_breaks(
    tmp_path: Path, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path, attacks=["carlini-uncond"], measures=["rms"])
    with monkeypatch.context() as broken:
        broken.setattr(Rms, "descriptors", lambda self, images: images)
        with pytest.raises(MeasureFailed, match="measure rms: descriptors returned"):
            runner.execute(plan)
    images = plan.folder().images_file("carlini-uncond.s0", shard_of(range(16)))
    made = images.stat().st_mtime_ns
    assert runner.execute(plan).metrics is not None and images.stat().st_mtime_ns == made


# ---- Shown ------------------------------------------------------------------------------------------


def test_show_knows_measures_and_classes_of_local_files(tmp_path: Path) -> None:
    shown = describe("nl2c:n10:a0.5")
    assert shown.data["id"] == "nl2c:n10:a0.5" and "high 0 to 0.5, mid 0.5 to 0.75" in shown.text
    for kind in SKELETONS:
        file = next(f for f in write_skeleton(kind, f"shown-{kind}", tmp_path / kind) if f.name == f"shown_{kind}.py")
        if kind == "model":
            assert "images: 1x8x8\nconditioning: none\npredicts: epsilon" in describe(f"{file}:shown_model").text
            continue
        assert f"shown-{kind}: shown-{kind} (none)" in describe(f"{file}:Shown{kind.title()}").text
    with pytest.raises(BadInput, match=r"is none of sidebench\.Attack, sidebench\.Defence, sidebench\.Detector"):
        describe(f"{tmp_path / 'attack' / 'shown_attack.py'}:Settings")
    for name in ("early-stopping", "training:early-stopping"):
        assert "leave off after this step" in describe(name).text
    listed = {row["name"]: row["title"] for row in listing("defences")}
    assert listed["training:augmentation"] == "sidebench train PAIR --shift"
    with pytest.raises(UnknownName, match="did you mean zncc"):
        describe("znc")


def test_a_measure_of_a_local_file_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a measure is named by its id; pip install its package first"):
        registry.make_measure(as_file(tmp_path, ""))
