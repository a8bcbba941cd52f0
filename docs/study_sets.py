"""Write the image sets and pair files of docs/study-side.md and docs/study-plan.md into a folder.

    python docs/study_sets.py OUT
    python docs/study_sets.py OUT --images faces8=faces64.npz:images --size 8
    python docs/study_sets.py OUT --images faces16=faces64.npz:images --size 16 --each 100 --batch 32 --channels 32 64

Digits come with scikit-learn. Other sets are uint8 images of an npz file, N x H x W, or N x H x W x C with three
colours or with three and alpha; a column of image files of a parquet file; several of one file with commas between; or
a folder of PNG files. They are shuffled, laid on white where they are transparent, brought to the size by averaging
over boxes, and 256 are taken, or as many as both sides need. Then

    sidebench train OUT/digits-0.yaml --out victims/digits-0

trains a victim, and `sidebench run victims/digits-0/pair.yaml` attacks it.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

SHUFFLED, VICTIMS = 256, 8
LARGER = ((256, 4000), (256, 8000), (512, 16000))
"""Training images and steps: once as many steps as the other victims of digits, then as many passes over X."""
CANARIES = (2, 4, 8, 16)
"""Copies of ten images each; 216 more stand once."""


def write_pair(
    out: Path,
    name: str,
    images: str,
    seed: int,
    sides: tuple[int, int],
    recipe: Mapping[str, Any],
    *,
    rms: float = 0.05,
    n: int = 10,
) -> None:
    """Write a pair: random images to train on and others held out, as many as `sides` says, by duplicate group."""
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
            "split": {"seed": seed, "duplicate_rms": rms, "training": sides[0], "held_out": sides[1], "pool": 0},
        },
        "recipe": {"seed": seed, **recipe},
        "measures": [f"nl2c:n{n}:a0.5", f"nl2:n{n}:a0.5", "rms"],
        "attacks": {"carlini-uncond": {"origin": "it has no settings"}},
        "licence": "that of the images",
        "public": True,
        "made_by": "docs/study_sets.py, then sidebench train; commands in docs/study-side.md",
    }
    (out / f"{name}.yaml").write_text(yaml.safe_dump(pair, sort_keys=False), encoding="utf-8")


def write_digits(out: Path) -> None:
    """Write the digits victims, their shadow victim on other images, larger ones, and the victim with canaries."""
    from sklearn.datasets import load_digits

    digits = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    digits = digits[np.random.default_rng(2410).permutation(len(digits))]
    others = digits[2 * SHUFFLED : 2 * SHUFFLED + 1024]
    first = 10 * len(CANARIES)
    copies = [np.repeat(others[:first], np.repeat(CANARIES, 10), axis=0), others[first : first + 216]]
    sets = {
        "digits": digits[:SHUFFLED],
        "digits-tuning": digits[SHUFFLED : 2 * SHUFFLED],
        "digits-larger": digits[2 * SHUFFLED :],
        "canary": np.concatenate(copies),
    }
    for name, images in sets.items():
        np.savez(out / f"{name}.npz", images=images)
    for victim in range(VICTIMS):
        write_pair(out, f"digits-{victim}", "digits", 100 + victim, (128, 128), {"steps": 4000})
    write_pair(out, "digits-tuning", "digits-tuning", 200, (128, 128), {"steps": 4000})
    for each, steps in LARGER:
        write_pair(out, f"digits-x{each}-{steps}", "digits-larger", 100, (each, each), {"steps": steps})
    write_pair(out, "canary-0", "canary", 100, (240, 240), {"steps": 2500})


def on_white(images: np.ndarray) -> np.ndarray:
    """Lay uint8 images with alpha, N x H x W x 4, on white; return others as they are."""
    if images.ndim < 4 or images.shape[3] < 4:
        return images
    alpha = images[..., 3:] / 255
    return np.round(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def read_images(place: str) -> np.ndarray:
    """Read FILE:NAME[,NAME], arrays of an npz file or columns of a parquet file, or a folder of PNG files, as uint8."""
    if Path(place).is_dir():
        return np.stack([np.asarray(Image.open(file).convert("RGBA")) for file in sorted(Path(place).glob("*.png"))])
    file, names = place.rsplit(":", 1)
    if not file.endswith(".parquet"):
        arrays = np.load(file, allow_pickle=False)
        return np.concatenate([arrays[name] for name in names.split(",")])
    table = pq.read_table(file)
    cells = [cell for name in names.split(",") for cell in table[name].to_pylist()]
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])


def write_others(given: argparse.Namespace) -> None:
    """Write three victims of another set."""
    name, _, place = given.images.partition("=")
    images = on_white(read_images(place))
    size = (given.size, given.size)
    small = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images])
    shuffled = small[np.random.default_rng(2467).permutation(len(small))]
    sides = (given.each, given.held_out or given.each)
    chosen = shuffled[given.skip : given.skip + max(SHUFFLED, sum(sides))]
    np.savez(given.out / f"{name}.npz", images=chosen)
    for victim in range(3):
        recipe = {key: getattr(given, key) for key in ("steps", "batch", "channels", "precision")}
        called = f"{name}-{victim}"
        write_pair(given.out, called, name, 100 + victim, sides, recipe, rms=given.duplicate_rms, n=given.neighbours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", metavar="NAME=FILE:ARRAY", help="another set than the digits")
    parser.add_argument("--size", type=int, default=8, help="height and width it is brought to")
    parser.add_argument("--steps", type=int, default=8000, help="training steps of its victims")
    parser.add_argument("--batch", type=int, default=64, help="images in a step")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32], help="of the U-Net, one number a level")
    parser.add_argument("--precision", default="float32", help="of the network's calls in training, or bfloat16")
    parser.add_argument("--each", type=int, default=128, help="images to train on, and as many held out")
    parser.add_argument("--held-out", type=int, help="images held out, if not as many")
    parser.add_argument("--neighbours", type=int, default=10, help="the n of nl2 and nl2c, at most a tenth of --each")
    parser.add_argument("--skip", type=int, default=0, help="shuffled images that are passed over")
    parser.add_argument("--duplicate-rms", type=float, default=0.05, help="nearer than this is one duplicate group")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.images is None:
        write_digits(given.out)
    else:
        write_others(given)
