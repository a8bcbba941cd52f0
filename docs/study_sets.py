"""Write the image sets and pair files of docs/study-side.md into a folder.

    python docs/study_sets.py OUT
    python docs/study_sets.py OUT --images faces8=faces64.npz:images --size 8

Digits come with scikit-learn. Other sets are an array of uint8 images, N x H x W x C, in an npz file; they are
shuffled, brought to the size by averaging over boxes, and the first 256 are taken. Then

    sidebench train OUT/digits-0.yaml --out victims/digits-0

trains a victim, and `sidebench run victims/digits-0/pair.yaml` attacks it.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SHUFFLED, VICTIMS = 256, 8
CANARIES = (2, 4, 8, 16)
"""Copies of ten images each; 216 more stand once."""


def write_pair(out: Path, name: str, images: str, seed: int, each: int, recipe: Mapping[str, Any], rms: float) -> None:
    """Write a pair: a random `each` images to train on and as many held out, by duplicate group."""
    pair = {
        "name": name,
        "title": name,
        "description": "A victim of the study of SIDE.",
        "revision": 1,
        "control": "iid",
        "model": {"location": "none"},
        "data": {
            "source": "npz",
            "path": f"{images}.npz",
            "images": "images",
            "split": {"seed": seed, "duplicate_rms": rms, "training": each, "held_out": each, "pool": 0},
        },
        "recipe": {"seed": seed, **recipe},
        "measures": ["nl2c:n10:a0.5", "nl2:n10:a0.5", "rms"],
        "attacks": {"carlini-uncond": {"origin": "it has no settings"}},
        "licence": "that of the images",
    }
    (out / f"{name}.yaml").write_text(yaml.safe_dump(pair, sort_keys=False), encoding="utf-8")


def write_digits(out: Path) -> None:
    """Write the digits victims, their shadow victim on other images, and the victim with canaries."""
    from sklearn.datasets import load_digits

    digits = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    digits = digits[np.random.default_rng(2410).permutation(len(digits))]
    others = digits[2 * SHUFFLED : 2 * SHUFFLED + 1024]
    first = 10 * len(CANARIES)
    copies = [np.repeat(others[:first], np.repeat(CANARIES, 10), axis=0), others[first : first + 216]]
    sets = {
        "digits": digits[:SHUFFLED],
        "digits-tuning": digits[SHUFFLED : 2 * SHUFFLED],
        "canary": np.concatenate(copies),
    }
    for name, images in sets.items():
        np.savez(out / f"{name}.npz", images=images)
    for victim in range(VICTIMS):
        write_pair(out, f"digits-{victim}", "digits", 100 + victim, 128, {"steps": 4000}, 0.05)
    write_pair(out, "digits-tuning", "digits-tuning", 200, 128, {"steps": 4000}, 0.05)
    write_pair(out, "canary-0", "canary", 100, 240, {"steps": 2500}, 0.05)


def write_others(out: Path, name: str, file: str, array: str, size: int, steps: int) -> None:
    """Write three victims of another set."""
    images = np.load(file, allow_pickle=False)[array]
    small = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)) for image in images]
    chosen = np.stack(small)[np.random.default_rng(2467).permutation(len(images))][:SHUFFLED]
    np.savez(out / f"{name}.npz", images=chosen)
    for victim in range(3):
        write_pair(out, f"{name}-{victim}", name, 100 + victim, 128, {"steps": steps}, 0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", metavar="NAME=FILE:ARRAY", help="another set than the digits")
    parser.add_argument("--size", type=int, default=8, help="height and width it is brought to")
    parser.add_argument("--steps", type=int, default=8000, help="training steps of its victims")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.images is None:
        write_digits(given.out)
    else:
        name, _, place = given.images.partition("=")
        write_others(given.out, name, *place.rsplit(":", 1), size=given.size, steps=given.steps)
