"""Every family from a Hub to a table: fetched once, then attacked by the command without one request."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_repositories import (
    flow_pipeline,
    latent_pipeline,
    lora_file,
    picture_repository,
    pixel_pipeline,
    score_sde_pipeline,
    text_pipeline,
)
from local_hub import Commands, LocalHub
from text_pipelines import flux, latent_consistency, pixart, sana, sd3, sdxl

pytest.importorskip("transformers")

MAKERS: dict[str, tuple[str, Any]] = {
    "pixel": ("pixel", pixel_pipeline),
    "root": ("pixel", lambda folder: pixel_pipeline(folder, root=True)),
    "classes": ("pixel", lambda folder: pixel_pipeline(folder, classes=7)),
    "score-sde": ("pixel", score_sde_pipeline),
    "flow": ("pixel", flow_pipeline),
    "vq": ("latent", lambda folder: latent_pipeline(folder, "vq")),
    "kl": ("latent", lambda folder: latent_pipeline(folder, "kl")),
    "dit": ("latent", lambda folder: latent_pipeline(folder, "dit")),
    "text": ("text", text_pipeline),
    "lora": ("text", text_pipeline),
    "sdxl": ("text", sdxl),
    "sd3": ("text", sd3),
    "flux": ("text", flux),
    "pixart": ("text", pixart),
    "sana": ("text", sana),
    "lcm": ("text", latent_consistency),
}
GUIDED = ("classes", "dit")
"""Families on which side runs too; tests/models/test_families.py has it on each, without a run around it."""
FETCHED_ONLY = ("sd3", "pixart", "sana", "lcm")
SMALL = {"synthetic_images": 24, "clusters": 3, "training_steps": 3, "batch": 8, "width": 8, "cohesion": -1.0}
FEW = ["--tier", "smoke"]
SIDE = {"side": {"origin": "none", "settings": SMALL}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[LocalHub]:
    """Run a Hub with a model of every family, a LoRA, and two data sets."""
    with LocalHub() as running:
        for name, (_, make) in MAKERS.items():
            running.add("models", f"tiny/{name}", make(place / name))
        running.add("models", "tiny/adapter", {"pytorch_lora_weights.safetensors": _adapter(place), "README.md": b"x"})
        running.add("datasets", "tiny/noise", picture_repository(place / "noise", train=14, test=12))
        captioned = picture_repository(place / "captioned", train=14, test=12, captions=True, size=16)
        running.add("datasets", "tiny/captioned", captioned)
        yield running


def _adapter(place: Path) -> bytes:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(place / "text" / "unet")
    return lora_file(place / "adapter.safetensors", {"unet": network}).read_bytes()


def wanted(name: str) -> list[str]:
    """Return the attacks that run on a family."""
    return ["prompt-replay"] if MAKERS[name][0] == "text" else ["carlini-uncond", *(["side"] * (name in GUIDED))]


def write_pair(place: Path, name: str, steps: int = 3) -> str:
    family = MAKERS[name][0]
    text = family == "text"
    model: dict[str, Any] = {"family": family, "repo": f"tiny/{name}"}
    if name == "lora":
        model |= {"repo": "tiny/text", "lora": {"repo": "tiny/adapter", "scale": 0.5}}
    pair = {
        "name": f"tiny-{name}",
        **dict.fromkeys(("title", "description", "licence"), "made for a test"),
        "revision": 1,
        "control": "surrogate",
        "model": model,
        "data": {
            "source": "hub",
            "repo": "tiny/captioned" if text else "tiny/noise",
            "size": {"sana": 32}.get(name, 16 if text else 8),
            "members": {"split": "train"},
            "held_out": {"split": "test"},
            **({"captions": "text"} if text else {}),
        },
        "measures": ["rms", "tile_l2:2x2:max"],
        "protocol": {"micro_batch": 4, "sampler": {"steps": steps}, "reason": "small"},
        "attacks": {wanted(name)[0]: {"origin": "none"}} | (SIDE if name in GUIDED else {}),
    }
    (place / f"{name}.yaml").write_text(yaml.safe_dump(pair), encoding="utf-8")
    return f"{name}.yaml"


WITHOUT_PLOTS = """
from sidebench.benchmark.reports import page
page.inlined = lambda name, picture: {"title": picture.title, "svg": "<svg/>"}
"""
"""The pages of thirteen runs are written without their plots, which are drawn in tests/reports/."""


@pytest.fixture(scope="module")
def sidebench(hub: LocalHub, place: Path) -> Iterator[Commands]:
    with Commands(hub, place, before=WITHOUT_PLOTS) as running:
        yield running


def test_all_families_run_end_to_end_and_ask_nobody(hub: LocalHub, place: Path, sidebench: Commands) -> None:
    pairs = [write_pair(place, name) for name in MAKERS]
    fetched = sidebench("fetch", *pairs, "--json")
    assert fetched[0] == 0, fetched[2]
    parts = json.loads(fetched[1])
    assert all(part["here"] and part["access"] == "fetched" for part in parts)
    assert "LoRA" in {part["what"] for part in parts}

    hub.requests.clear()
    run = [name for name in MAKERS if name not in FETCHED_ONLY]
    runs = [sidebench("run", f"{name}.yaml", "--candidates", "6", "--device", "cpu", "--json=full") for name in run]
    assert hub.requests == []
    identities = {}
    for name, (code, out, err) in zip(run, runs, strict=True):
        assert code == 0, (name, err)
        (metrics,) = json.loads(out)
        assert [cost["attack"] for cost in metrics["costs"]] == wanted(name), name
        manifest = json.loads((place / metrics["folder"] / "manifest.json").read_text(encoding="utf-8"))
        commits = {key: source["commit"] for key, source in manifest["sources"].items()}
        assert commits["model"] == hub.repos["models", _repository(name)].branches["main"]
        assert set(commits) == {"model", "data", "lora"} if name == "lora" else {"model", "data"}
        assert str(place) not in json.dumps(manifest)
        assert manifest["components_left_out"] == (["safety_checker"] if name in ("text", "lora") else [])
        identities[name] = manifest["identity"]["model"]
    assert identities["text"]["sha256"].items() < identities["lora"]["sha256"].items()
    assert identities["lora"]["sha256"].keys() - identities["text"]["sha256"].keys() == {"lora:0.5"}


def _repository(name: str) -> str:
    return "tiny/text" if name == "lora" else f"tiny/{name}"


def test_the_page_takes_a_newcomer_from_a_name_to_a_table(hub: LocalHub, place: Path, sidebench: Commands) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")
    section = page.partition("## By name")[2].partition("##")[0]
    commands = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("    sidebench ")]
    assert [command[0] for command in commands] == ["plan", "fetch", "run"]
    hub.add("models", "google/ddpm-cifar10-32", place / "root", card={"license": "apache-2.0"})
    hub.add("datasets", "uoft-cs/cifar10", picture_repository(place / "cifar"))
    planned, fetched, made = (sidebench(*command, *more) for command, more in zip(commands, ([], [], FEW), strict=True))
    assert planned[0] == 0 and "model: google/ddpm-cifar10-32 at" in planned[1], planned[2]
    assert "licence: apache-2.0" in planned[1] and "measure nl2c:n50:a0.5: ready" in planned[1]
    assert fetched[0] == 0 and "fetched" in fetched[1], fetched[2]
    assert made[0] == 0, made[2]
    assert "1 attack, 256 images each" in made[1] and "carlini-uncond" in made[1]
    run = made[1].partition("sidebench show ")[2].split()[0]
    metrics = json.loads((place / run / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["training_images"], metrics["held_out_images"]) == (600, 600)
    assert list((place / "runs").glob("*/report.html"))


def test_attacks_that_do_not_fit_say_so_before_any_work(place: Path, sidebench: Commands) -> None:
    commands = [
        ["run", write_pair(place, "text"), "--attack", "side", "--out", "none"],
        ["run", write_pair(place, "text"), "--attack", "side-modes", "--out", "none"],
        ["run", write_pair(place, "vq"), "--attack", "prompt-replay", "--out", "none"],
    ]
    for code, _, err in (sidebench(*command) for command in commands):
        assert code == 2 and "works on models with conditioning" in err.splitlines()[-1]
    code, _, err = sidebench("run", write_pair(place, "lcm", steps=21), "--out", "none")
    assert code == 2 and "21 steps of the sampler, but the model was distilled from 20" in err.splitlines()[-1]
    assert not (place / "none").exists()
