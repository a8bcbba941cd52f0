"""A model in a file of somebody's own: what identity holds of it, and what is refused before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import OWN_MODEL, own_model, tiny_denoiser

from sidebench import Model, ModelSpec, check_model, from_torch, load_model, plan_run
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, UnknownName, UnsafeFile
from sidebench.benchmark.models import inspect_files
from sidebench.benchmark.models.find_model import find_model
from sidebench.benchmark.models.own_model import LIVE, TENSORS, live_spec
from sidebench.benchmark.models.pair_from_names import pair_of

LINEAR = ("linear", 1000, 1e-4, 0.02)


def found(name: str, **options: Any) -> ModelSpec:
    return find_model(load_pair("digits"), name, Path(), **options).spec


def changed(folder: Path, before: str, after: str) -> str:
    assert before in OWN_MODEL
    return own_model(folder, OWN_MODEL.replace(before, after))


# ---- Identity ---------------------------------------------------------------------------------------


def test_identity_holds_source_weights_and_tensors(tmp_path: Path) -> None:
    spec = found(own_model(tmp_path))
    assert set(spec.sha256) == {"mine.py", "mine.safetensors", TENSORS}
    assert spec.family == "pixel" and spec.content() == {"family": "pixel", "sha256": spec.sha256}
    files = inspect_files(spec)
    assert (files.image_size, files.sample_size, files.conditioning) == ((8, 8, 1), (8, 8, 1), "none")
    assert files.sha256 == spec.sha256


def test_an_edit_of_file_or_weights_is_another_model(tmp_path: Path) -> None:
    before = found(own_model(tmp_path))
    after = found(changed(tmp_path, "0.02", "0.03"))
    assert {key for key, digest in before.sha256.items() if after.sha256[key] != digest} == {"mine.py", TENSORS}
    with pytest.raises(UnsafeFile, match=r"mine\.py:mine: SHA-256 of mine\.py is"):
        load_model(before)
    own_model(tmp_path)
    weights = tmp_path / "mine.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UnsafeFile, match=r"SHA-256 of mine\.safetensors is"):
        load_model(before)


def test_a_network_beside_the_file_is_part_of_it(tmp_path: Path) -> None:
    for folder, factor in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        own_model(
            tmp_path / folder,
            OWN_MODEL.replace("(net,", "(network.scaled(net),").replace("\ndef", "import network\ndef"),
        )
        network = (
            "from torch import nn\n\n\ndef scaled(net):\n    return Scaled(net)\n\n\nclass Scaled(nn.Module):\n"
            "    def __init__(self, net):\n        super().__init__()\n        self.net = net\n\n"
            f"    def forward(self, x_t, t):\n        return {factor} * self.net(x_t, t)\n"
        )
        (tmp_path / folder / "network.py").write_text(network, encoding="utf-8")
    specs = [found(f"{tmp_path / folder / 'mine.py'}:mine") for folder in "ab"]
    assert [set(spec.sha256) for spec in specs] == [{"mine.py", "network.py", "mine.safetensors", TENSORS}] * 2
    assert specs[0].sha256["mine.py"] == specs[1].sha256["mine.py"]
    assert specs[0].sha256["network.py"] != specs[1].sha256["network.py"]
    x_t, t = torch.ones(1, 1, 8, 8), torch.tensor([3])
    once, twice = (load_model(spec).predict(x_t, t) for spec in specs)
    assert torch.equal(2 * once, twice), "each has its own network.py"


def test_weights_from_nowhere_are_noticed(tmp_path: Path) -> None:
    source = "\n".join(
        line for line in OWN_MODEL.splitlines() if "load_state_dict" not in line and "weights =" not in line
    )
    spec = found(own_model(tmp_path, source.replace("mine(weights)", "mine()")))
    with pytest.raises(BadInput, match="has other weights than before: load them from a file, named as `weights`"):
        inspect_files(spec)


def test_a_file_and_a_live_module_make_the_same_answers(tmp_path: Path) -> None:
    live = live_spec(from_torch(tiny_denoiser(), schedule=LINEAR, image_shape=(1, 8, 8)))
    x_t, t = torch.ones(2, 1, 8, 8), torch.tensor([3, 999])
    assert torch.equal(load_model(live).predict(x_t, t), load_model(found(own_model(tmp_path))).predict(x_t, t))
    assert live.content() == {"family": "pixel", "sha256": {LIVE: live.sha256[LIVE]}, "live": True}


def test_a_live_module_is_its_weights_and_what_was_said_of_it() -> None:
    def digest(**options: Any) -> str:
        module = options.pop("module", tiny_denoiser())
        return live_spec(from_torch(module, **{"schedule": LINEAR, "image_shape": (1, 8, 8), **options})).sha256[LIVE]

    other = tiny_denoiser()
    with torch.no_grad():
        other.last.bias[0] += 1e-3
    digests = [
        digest(),
        digest(module=other),
        digest(schedule=("linear", 1000, 1e-4, 0.03)),
        digest(image_range=(0, 1)),
        digest(time=lambda t: t + 1),
        digest(time=lambda t: t + 2),
        digest(prediction="sample"),
    ]
    assert digest() == digests[0] and len(set(digests)) == len(digests)


def test_a_live_model_that_changes_before_the_run_is_refused() -> None:
    model = from_torch(tiny_denoiser(), schedule=LINEAR, image_shape=(1, 8, 8))
    spec = live_spec(model)
    with torch.no_grad():
        model.module.last.bias += 1
    with pytest.raises(BadInput, match="has changed since the run was planned: plan it again"):
        load_model(spec)


# ---- A subclass -------------------------------------------------------------------------------------

SUBCLASS = """
import torch
from sidebench import Model
from sidebench.benchmark.models.analytic import SCHEDULE, MixtureModel


class mine(Model):
    weights = "mine.safetensors"
    sample_shape = image_shape = (1, 8, 8)
    conditioning, num_train_timesteps, prediction_type, scheduler_config = "none", 1000, "epsilon", SCHEDULE

    def __init__(self, weights):
        self.first = weights["first.weight"]
        self.inside = MixtureModel(self.first.mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), 0.5)

    def noise_level(self, t):
        return self.inside.noise_level(t)

    def predict(self, x_t, t, condition=None):
        return self.inside.predict(x_t, t)

    def encode(self, images):
        return images * 2 - 1

    def decode(self, x_0):
        return (x_0 / 2 + 0.5).clamp(0, 1)

    def flops_per_sample(self):
        return 1
"""


def test_a_subclass_is_called_with_its_weights(tmp_path: Path) -> None:
    spec = found(own_model(tmp_path, SUBCLASS))
    model = load_model(spec)
    assert isinstance(model, Model) and model.spec.sha256 == spec.sha256 and model.device.type == "cpu"
    assert inspect_files(spec).image_size == (8, 8, 1)
    with pytest.raises(BadInput, match="its precision is its own: leave --dtype out"):
        load_model(spec.model_copy(update={"dtype": "float16"}))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"none", 1000', '"none", "50"', "num_train_timesteps is a whole number of 2 or more, was '50'"),
        ('"epsilon", S', '"noise", S', "prediction_type is one of epsilon, .* was 'noise'"),
        ("image_shape = (1, 8, 8)", "image_shape = (8, 8)", r"sample_shape is .channels, height, width., was \(8, 8\)"),
        ("images * 2 - 1", "images.mean()", r"encode returned shape \(\), wanted \(2, 1, 8, 8\)"),
        (".clamp(0, 1)", "", r"decode returned values outside \[0, 1\]; clip them"),
        ("    def flops_per_sample(self):\n        return 1\n", "", "does not define flops_per_sample"),
        ("self.inside.noise_level(t)", "(t * 0 + 1.0, t * 0 + 1.0)", r"must have alpha\^2 \+ sigma\^2 = 1"),
        ("self.inside.noise_level(t)", "self.inside.noise_level(999 - t)", "an alpha that falls with t"),
        ("self.inside.predict(x_t, t)", "self.inside.predict(x_t, t).double()", r"wanted torch.float32; add .float"),
        ("self.inside.predict(x_t, t)", "1 / 0", r"ZeroDivisionError: division by zero \(mine\.py, line 20\)"),
    ],
)
def test_a_subclass_that_breaks_its_contract_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in SUBCLASS
    with pytest.raises(BadInput, match=message):
        inspect_files(found(own_model(tmp_path, SUBCLASS.replace(before, after))))


# ---- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return sidebench", "return net\n    sidebench", "returned a torch module: return sidebench.from_torch"),
        ("return sidebench", "sidebench", "returned a NoneType, not a sidebench.Model"),
        ("import sidebench\n", "import sidebench\nimport no_such\n", r"No module named 'no_such'.*\(mine.py, line 3\)"),
        ("mine(weights)", "mine()", "is called with the tensors of its weights file: too many positional arguments"),
        (
            "mine.weights =",
            "other =",
            "is called with nothing, since it names no `weights`: missing a required argument",
        ),
        ('"mine.safetensors"', '"none.safetensors"', r"no weights file none\.safetensors beside mine\.py"),
        ('"mine.safetensors"', '"mine.py"', r"weights are a \.safetensors file .* was mine\.py"),
        (
            "    net.load",
            "    1 / 0\n    net.load",
            r"failed: ZeroDivisionError: division by zero \(mine\.py, line 8\)",
        ),
        (
            "(1, 8, 8)",
            "(8, 8, 1)",
            r"to have 1 channels, but got 8 channels.*; is image_shape=\(8, 8, 1\) right\? it is \(chan",
        ),
    ],
)
def test_files_with_a_fault_are_refused_in_a_line(before: str, after: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((BadInput, UnknownName), match=message):
        inspect_files(found(changed(tmp_path, before, after)))


def test_pickled_weights_need_a_word(tmp_path: Path) -> None:
    name = changed(tmp_path, "mine.safetensors", "mine.pt")
    torch.save(tiny_denoiser().state_dict(), tmp_path / "mine.pt")
    with pytest.raises(UnsafeFile, match=r"mine\.pt is a pickle; .* or --allow-pickle if you trust it"):
        found(name)
    spec = found(name, allow_pickle=True)
    assert set(spec.sha256) == {"mine.py", "mine.pt", TENSORS}
    torch.save({"net": tiny_denoiser()}, tmp_path / "mine.pt")
    with pytest.raises(BadInput, match=r"cannot be read as tensors alone .*; save its state_dict"):
        found(name, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("min", "unknown class or function in .*mine.py 'min': did you mean mine"),
        ("three", "'.*:three' is not a model but a int: name a class, or a function without"),
        ("TinyDenoiser", "it is a torch module, so name a function that returns sidebench.from_torch"),
        ("Path", r"'.*:Path' is not a model: it must be a subclass of sidebench.Model, or return one$"),
    ],
)
def test_what_is_no_model_is_refused(name: str, message: str, tmp_path: Path) -> None:
    file = own_model(tmp_path, f"from pathlib import Path\n{OWN_MODEL}\nthree = 3\n").rpartition(":")[0]
    with pytest.raises(BadInput, match=message):
        found(f"{file}:{name}")


def test_a_file_without_a_name_says_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    file = own_model(tmp_path / "models", f"{OWN_MODEL}\n\ndef _inner():\n    1 / 0\n\n\nclass Net:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    said = r"^{0} is a Python file: name the class or function in the file too, {0}:mine or {0}:Net$"
    for name in ("models/mine.py", file.rpartition(":")[0]):  # the first could be a repository of the Hub
        with pytest.raises(BadInput, match=said.format(name)):
            pair_of(name, "nowhere", "train")
        with pytest.raises(BadInput, match=said.format(name)):
            check_model(name)
    with pytest.raises(
        BadInput, match=r"^none\.py is not there: name the class or function in the file too, none\.py:NAME$"
    ):
        found("none.py")


@pytest.mark.parametrize("name", ["./nowhere.py:mine", "nowhere.py:mine"])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=r"no such file: .*nowhere\.py"):
        found(name)


# ---- Pairs ------------------------------------------------------------------------------------------


def test_a_pair_file_names_it_relative_to_itself(tmp_path: Path, make_pair_file: Any) -> None:
    own_model(tmp_path)
    pair = load_pair(str(make_pair_file(tmp_path, model={"location": "./mine.py:mine"})))
    spec = find_model(pair, None, Path()).spec
    assert inspect_files(spec).image_size == (8, 8, 1)
    wrong = pair.model_copy(update={"model": pair.model.model_copy(update={"family": "latent"})})
    with pytest.raises(BadInput, match="the model is of family pixel, the pair says latent"):
        find_model(wrong, None, Path())
    pinned = pair.model.model_copy(update={"sha256": {"mine.py": "0" * 64}})
    with pytest.raises(UnsafeFile, match=r"SHA-256 of mine\.py is"):
        find_model(pair.model_copy(update={"model": pinned}), None, Path())


def test_a_pair_is_made_of_names(tmp_path: Path) -> None:
    from hub_repositories import picture_repository

    data = str(picture_repository(tmp_path / "photos", 12, 12))
    pair = pair_of(own_model(tmp_path), data, "train", "test")
    assert (pair.name, pair.model.family, pair.control) == ("mine.py-mine.photos", "pixel", "surrogate")
    assert (pair.data.size, pair.data.channels) == (8, 1)
    live = pair_of(from_torch(tiny_denoiser(), schedule=LINEAR, image_shape=(1, 8, 8)), Path(data), "train")
    assert (live.name, live.control) == ("tinydenoiser.photos", "none")


def test_what_is_no_name_or_no_image_is_refused_where_the_pair_is_made() -> None:
    model, turned = (
        from_torch(tiny_denoiser(), schedule=LINEAR, image_shape=shape) for shape in ((1, 8, 8), (8, 8, 1))
    )
    images: Any = torch.zeros(4, 8, 8, dtype=torch.uint8)
    for given in ((images, images), (images.numpy(), "x"), ("a.npz", images)):
        with pytest.raises(BadInput, match=r"by name, not a (Tensor|ndarray); save arrays by numpy\.savez\('a\.npz'"):
            pair_of(model, *given)
    with pytest.raises(BadInput, match=r"8x1x8; square grey or RGB .*; is image_shape=\(8, 8, 1\) right\?"):
        pair_of(turned, "nowhere", "train")


def test_arrays_of_another_size_ask_for_the_shape_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 8, 8), dtype=np.uint8))
    model = from_torch(tiny_denoiser(), schedule=LINEAR, image_shape=(1, 16, 16))
    pair = pair_of(model, tmp_path / "a.npz", "x")
    with pytest.raises(BadInput, match=r"images are 8x8x1, .*; is image_shape=\(1, 16, 16\) right\? it is \(channels"):
        plan_run(pair, model=model, candidates=4, device="cpu")
