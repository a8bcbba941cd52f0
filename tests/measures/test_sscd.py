"""The learned measure: its id, its preprocessing, and that only the recorded network is loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sidebench.benchmark.contracts import Neighbours
from sidebench.benchmark.errors import BadInput, UnsafeFile
from sidebench.benchmark.measures import fetch_weights, weights
from sidebench.benchmark.measures.sscd import Sscd
from sidebench.cli import main

FILE = "sscd_disc_mixup.torchscript.pt"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a TorchScript file of a tiny network that averages cells; what is brought in lies in this folder."""
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    file = tmp_path / "tiny.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())).save(str(file))
    return file


@pytest.mark.parametrize("options", [None, ["disc_mixup", "squash320", "imagenet"]])
def test_id_spells_everything(options: list[str] | None) -> None:
    measure = Sscd(options)
    assert measure.id == "sscd:disc_mixup:squash320:imagenet"
    assert measure.space == "sscd-disc_mixup-squash320-imagenet" != Sscd(["disc_large", "squash288", "imagenet"]).space


@pytest.mark.parametrize("text", ["disc_mixup", "best:squash320:imagenet", "disc_mixup:squash0:imagenet", "a:b:c:d"])
def test_unknown_options_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like sscd:disc_mixup:squash320:imagenet"):
        Sscd(text.split(":"))


def test_only_the_recorded_network_is_loaded(network: Path) -> None:
    measure = Sscd()
    with pytest.raises(BadInput, match=f"needs the network {FILE}, which is not here.*sidebench fetch --weights"):
        measure.weights()
    digest = fetch_weights.bring_in(f"{FILE}={network}")
    assert measure.weights() == {FILE: digest}
    stored = weights.folder() / FILE
    stored.write_bytes(stored.read_bytes() + b"\0")
    with pytest.raises(UnsafeFile, match="recorded was"):
        measure.weights()
    with pytest.raises(UnsafeFile):
        measure.descriptors(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("text", [FILE, f"{FILE}=", "../x=y", f"{FILE}=nowhere.pt", ".hidden=x"])
def test_what_cannot_be_brought_in_is_refused(text: str, network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fetch", "--weights", text])
    assert left.value.code == 2 and "--weights" in capsys.readouterr().err
    assert not weights.folder().exists() or not list(weights.folder().iterdir())


def test_descriptors_are_those_of_the_squashed_normalised_image(network: Path) -> None:
    fetch_weights.bring_in(f"{FILE}={network}")
    measure = Sscd(["disc_mixup", "squash32", "imagenet"])
    images = torch.rand(18, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    found = measure.descriptors(images)
    assert found.shape == (18, 48) and torch.allclose(found.norm(dim=1), torch.ones(18))
    assert torch.equal(measure.descriptors(images[17:]), found[17:])
    pixels = (images[3].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    small = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    normal = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    cells = normal.reshape(4, 8, 4, 8, 3).mean((1, 3)).transpose(2, 0, 1).ravel()
    assert np.abs(found[3].numpy() - cells / np.linalg.norm(cells)).max() < 5e-3
    grey = torch.rand(2, 1, 48, 40)
    assert torch.allclose(measure.descriptors(grey), measure.descriptors(grey.expand(-1, 3, -1, -1)))


def test_scores_are_cosines_and_the_radius_is_the_floor() -> None:
    measure = Sscd()
    none = Neighbours(*(np.zeros((1, 1), dtype=np.float32) for _ in range(3)))
    assert measure.scores(np.array([[0.0, 2**0.5, 2.0]]), none, none, "training")[0] == pytest.approx([1, 0, -1])
    edge = measure.radius(none, none, "training")
    assert measure.scores(edge[:, None], none, none, "training")[0, 0] == pytest.approx(measure.floor)
