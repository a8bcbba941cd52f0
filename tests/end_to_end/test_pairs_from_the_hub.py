"""Pairs from a Hub: through the real huggingface_hub, datasets and diffusers, against a server on this machine."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_repositories import class_name, picture_repository, pixel_pipeline
from local_hub import TOKEN, Commands, LocalHub

Said = tuple[int, str, str]
LIGHT = 'assert "diffusers" not in sys.modules\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pipeline in the old layout, one in the new, and data."""
    parent = tmp_path_factory.mktemp("folders")
    pixel_pipeline(parent / "old", root=True)
    pixel_pipeline(parent / "new")
    picture_repository(parent / "noise", train=40, test=30)
    return parent


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(folders: Path, place: Path) -> Iterator[tuple[LocalHub, Commands]]:
    """Run a Hub with a model and a data set, and one process that never needs diffusers."""
    with LocalHub() as running:
        running.add("models", "google/good", folders / "new")
        running.add("datasets", "uoft/noise", folders / "noise")
        with Commands(running, place, after=LIGHT, HF_ENDPOINT=f"{running.endpoint}/") as commands:
            yield running, commands


@pytest.fixture(scope="module")
def runs(shared: tuple[LocalHub, Commands], place: Path) -> Iterator[Commands]:
    """Run another process on the same cache, which may load models and has no token."""
    with Commands(shared[0], place) as commands:
        yield commands


@contextmanager
def largest_file(process: int, size: int) -> Iterator[None]:
    """Let a process write no file larger than this, as on a full disk."""
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def attack(model: str, dataset: str = "uoft/noise", *more: str) -> list[str]:
    return ["run", "--model", model, "--dataset", dataset, "--split", "train", "--holdout", "test", *more]


def complaint(said: Said) -> str:
    """Return the last line of stderr, which must be one of ours."""
    last = said[2].strip().splitlines()[-1]
    assert last.startswith("sidebench: "), said[2]
    return last


def test_plan_then_fetch_then_a_run_that_asks_nobody(
    shared: tuple[LocalHub, Commands], runs: Commands, folders: Path, place: Path
) -> None:
    hub, asks = shared
    evil = "\x1b[31m<script>alert(1)</script>"
    model = hub.add("models", "google/tiny-ddpm", folders / "old", private=True, card={"license": evil})
    data = hub.add("datasets", "uoft/closed", folders / "noise", gated=True, card={"license": "mit"})
    first = {"model": model.branches["main"], "data": data.branches["main"]}
    names = attack("google/tiny-ddpm", "uoft/closed")[1:]

    hub.requests.clear()
    planned = asks("plan", *names, "--device", "cpu", HF_TOKEN=TOKEN)
    heavy = [r for r in hub.requests if r.startswith("GET") and r.endswith((".safetensors", ".parquet"))]
    fetched = asks("fetch", *names, "--json")
    code, out, err = planned
    assert code == 0, err
    assert f"model: google/tiny-ddpm at {first['model']} (main): 4 files" in out
    assert f"data: uoft/closed at {first['data']} (main): 2 files" in out
    assert "gated; this login has access, licence: mit" in out and "time: known after sidebench fetch" in out
    assert not heavy
    assert "\x1b" not in out and "<script>alert(1)</script>" in out

    code, out, err = fetched
    assert code == 0, err
    assert {part["what"]: part["commit"] for part in json.loads(out)} == first
    assert TOKEN not in out + err
    unwanted = [r for r in hub.requests if r.startswith("CONNECT") or (r.startswith("GET") and r.endswith(".py"))]
    assert not unwanted

    model.commit({"README.md": b"moved"})
    data.commit({"README.md": b"moved"})
    hub.requests.clear()
    more = ["--candidates", "4", "--measure", "rms", "--device", "cpu"]
    code, out, err = runs("run", *names, *more)  # without the token: nobody is asked
    assert code == 0, err
    assert hub.requests == []
    (made,) = (place / "runs").iterdir()
    assert "NO VERDICT" in out and f"sidebench show runs/{made.name} --all" in out
    metrics = json.loads((made / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["training_images"], metrics["held_out_images"], metrics["control"]) == (40, 30, "surrogate")
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert {key: source["commit"] for key, source in manifest["sources"].items()} == first
    assert set(manifest["identity"]["model"]["sha256"]) == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "model_index.json",
        "scheduler_config.json",
    }
    assert len(manifest["data"]["sha256"]) == 64
    for file in [*made.rglob("*.json"), made / "report.html"]:
        text = file.read_text(encoding="utf-8")
        assert str(place) not in text and TOKEN not in text, file
        assert file.suffix == ".json" or "<script>alert" not in text, file


def test_what_cannot_be_used_is_refused_in_one_line(
    shared: tuple[LocalHub, Commands], folders: Path, tmp_path: Path
) -> None:
    (hub, run), new = shared, folders / "new"
    hub.add("models", "google/gated", new, gated=True)
    hub.add("models", "google/private", new, private=True)
    hub.add("models", "google/empty", {"README.md": b"nothing"})
    pickled = shutil.copytree(new, tmp_path / "pickled")
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    hub.add("models", "google/pickled", pickled)
    own = shutil.copytree(new, tmp_path / "own")
    hub.add("models", "google/code", class_name(own, "DDPMPipeline", unet=["my_unet", "MyUNet"]))
    hub.add("models", "google/custom", class_name(own, ["pipeline", "Mine"]))
    hub.add("models", "google/cascade", class_name(own, "StableCascadePipeline"))
    large = Path(shutil.copytree(new, tmp_path / "large"))
    config = json.loads((large / "unet" / "config.json").read_text(encoding="utf-8"))
    (large / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": 128}), encoding="utf-8")
    hub.add("models", "google/large", large)
    evil = class_name(own, "\x1b[31mred\nsidebench: all is well<script>")
    hub.add("models", "google/evil", evil)
    hub.add("datasets", "uoft/script", {"script.py": b"raise SystemExit"})
    hub.add("datasets", "uoft/gated", folders / "noise", gated=True)
    wanted = {
        "google/gated": "model google/gated is gated: ask for access on",
        "google/private": "no model google/private on the Hub, or it is private",
        "google/nothing": "no model google/nothing on the Hub, or it is private",
        "google/good@v9": "model google/good has no revision 'v9'",
        "google/empty": "google/empty: no model_index.json",
        "google/pickled": "only pickled weights (unet/diffusion_pytorch_model.bin)",
        "google/code": "google/code: its unet (my_unet.MyUNet) is Python code of its own",
        "google/custom": "google/custom: its pipeline is Python code of its own",
        "google/cascade": "a StableCascadePipeline is not a pipeline that sidebench knows",
        "google/evil": "is not a pipeline that sidebench knows",
        "google/large": "measure sscd:disc_mixup:squash320:imagenet needs the network sscd_disc_mixup.torchscript.pt",
    }
    data = {
        "uoft/gated": "dataset uoft/gated is gated",
        "uoft/nothing": "no dataset uoft/nothing",
        "uoft/script": "uoft/script",
        "uoft/noise@v9": "dataset uoft/noise has no revision 'v9'",
    }
    commands = [attack(name) for name in wanted] + [attack("google/good", name) for name in data]
    commands += [attack("google/good")[:-2], ["run", "--dataset", "uoft/noise"], ["run"]]
    commands[-3][-1] = "training"
    said = [run(*command, HF_TOKEN="hf_of_a_stranger") for command in commands]
    more = ["has no split 'training': it has", "takes the place of a pair", "name a PAIR"]
    for one, expected in zip(said, [*wanted.values(), *data.values(), *more], strict=True):
        assert one[0] == 2, one
        assert expected in complaint(one), one[2]
        assert "hf_of_a_stranger" not in one[2] and "\x1b" not in one[2]
    assert not [
        r for r in hub.requests if r.startswith("GET") and r.endswith((".bin", ".safetensors")) and "good" not in r
    ]


def test_offline_broken_off_and_full_disk_can_be_resumed(
    hub: LocalHub, shared: tuple[LocalHub, Commands], folders: Path, tmp_path: Path
) -> None:
    hub.add("models", "google/good", folders / "new")
    hub.add("datasets", "uoft/noise", folders / "noise")
    with Commands(hub, tmp_path, after=LIGHT, HF_HUB_OFFLINE="1") as run:
        offline = run(*attack("google/good"))
    assert offline[0] == 3 and "not in the cache and the Hub cannot be reached" in complaint(offline)
    assert hub.requests == []

    file = "diffusion_pytorch_model.safetensors"
    hub, run = shared
    hub.add("models", "google/new", folders / "new")
    with largest_file(run.process.pid, 4096):
        full = run(*attack("google/new"))
    assert full[0] == 3 and "the disk is full" in complaint(full)
    hub.interruptions[file] = 6  # more often than the client tries on its own
    broken = run(*attack("google/new"))
    assert broken[0] == 3 and "the same command goes on" in complaint(broken), broken[2]
    hub.interruptions.clear()
    whole = run("fetch", *attack("google/new")[1:])
    assert whole[0] == 0, whole[2]


def test_a_moved_repository_is_fetched_under_its_new_name_and_found_under_the_old(
    shared: tuple[LocalHub, Commands], place: Path
) -> None:
    hub, run = shared
    data = hub.repos["datasets", "uoft/noise"]
    hub.moved["datasets", "noise"] = "uoft/noise"
    names = attack("google/good", "noise")[1:]
    code, out, err = run("fetch", *names, "--json")
    assert code == 0, err
    assert [part["commit"] for part in json.loads(out) if part["what"] == "data"] == [data.branches["main"]]
    assert "%|" not in err, "a bar"
    hub.requests.clear()
    code, out, err = run("plan", *names, "--json", "--device", "toaster")
    assert code == 2 and hub.requests == [], "what was fetched is known under the name that was asked for"
    (place / "model" / "unet").mkdir(parents=True)
    typed = run(*attack("modell/unet"))
    assert typed[0] == 2 and "and no such folder is here; did you mean model/unet?" in complaint(typed)


def test_a_changed_file_is_refused_and_fetched_again(
    shared: tuple[LocalHub, Commands], runs: Commands, folders: Path, place: Path
) -> None:
    hub, run, home = shared[0], runs, place / "home"
    hub.add("models", "google/changed", folders / "new")
    hub.add("datasets", "uoft/changed", folders / "noise")
    fetch = ["fetch", *attack("google/changed", "uoft/changed")[1:]]
    fetched = run(*fetch)
    assert fetched[0] == 0, fetched[2]
    model, data = (home / "hub" / f"{name}changed" / "snapshots" for name in ("models--google--", "datasets--uoft--"))
    (weights,) = model.rglob("diffusion_pytorch_model.safetensors")
    (table,) = data.rglob("train-*.parquet")
    whole = {file: file.read_bytes() for file in (weights, table)}
    for file, content in whole.items():
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(home / "sidebench" / "images")  # decoded images need the table no more

    use = attack("google/changed", "uoft/changed", "--candidates", "4", "--measure", "rms", "--device", "cpu")
    refused = run(*use)
    assert refused[0] == 2, refused
    assert "google/changed/unet/diffusion_pytorch_model.safetensors in the cache is not the file" in complaint(refused)
    weights.write_bytes(whole[weights])
    refused = run(*use)
    assert refused[0] == 2 and "uoft/changed/data/train-00000-of-00001.parquet in the cache" in complaint(refused)

    again = run(*fetch)
    assert again[0] == 0 and table.read_bytes() == whole[table]
    for file, content in whole.items():
        file.write_bytes(content[:-1])  # cut off
    again = run(*fetch)
    assert again[0] == 0 and all(file.read_bytes() == content for file, content in whole.items())


def test_pair_file_pins_hashes(shared: tuple[LocalHub, Commands], place: Path) -> None:
    (place / "own.yaml").write_text(PAIR, encoding="utf-8")
    code, _, err = shared[1]("run", "own.yaml", "--candidates", "4", "--device", "cpu")
    assert code == 2
    assert "google/good/unet/config.json: SHA-256 is" in err and "pinned is 0000000000000000" in err


PAIR = """
name: own
title: own
description: own
revision: 1
control: surrogate
model: {repo: google/good, sha256: {unet/config.json: "0000000000000000000000000000000000000000"}}
data:
  source: hub
  repo: uoft/noise
  images: img
  size: 8
  members: {split: train, indices: [3, 5, 7, 9]}
  held_out: {split: test, indices: [1, 2, 4]}
measures: [rms]
attacks: {carlini-uncond: {origin: it has no settings}}
licence: none
"""
