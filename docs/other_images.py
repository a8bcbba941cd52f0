"""Does an attack steer to images that the model has not seen? Write what answers it: python docs/other_images.py FOLDER

The reviewers' question in its sharpest form: a model is trained on the held-out images H of the pair digits, by the
recipe of digits, so that it leaks H. Then every attack's images are scored against X, which this model never saw, with
a part of the pool F as the control. Whatever an attack finds of X comes from the attack alone.

Writes the images and two pair files, trained-on-h.yaml and scored-against-x.yaml, and prints the commands that train
and attack. As a check that the model does leak, the first pair can be attacked too.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from sidebench.benchmark.data.pair import Pair, load_pair
from sidebench.benchmark.data.references import load_references


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write grey images, N x 1 x H x W uint8, as one parquet file of PNGs."""
    rows = []
    for image in images:
        out = io.BytesIO()
        Image.fromarray(image[0]).save(out, "PNG")
        rows.append({"bytes": out.getvalue(), "path": None})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": rows}), folder / "train-0.parquet")


def pair_file(digits: Pair, name: str, members: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return a pair on these rows with everything else as in digits."""
    kept = digits.model_dump(include={"revision", "control", "recipe", "measures", "allow_dense_neighbours", "licence"})
    return {
        "name": name,
        "title": name,
        "description": "digits under other roles: docs/other_images.py",
        "model": {"location": "model"},
        "data": {
            "source": "folder",
            "path": "data",
            "size": 8,
            "channels": 1,
            "members": {"split": "train", "indices": members.tolist()},
            "held_out": {"split": "train", "indices": held_out.tolist()},
            "duplicate_rms": digits.data.rule.duplicate_rms,
        },
        "attacks": {key: attack.model_dump() for key, attack in digits.attacks.items()},
        **kept,
    }


def main() -> None:
    """Write and print."""
    folder, digits = Path(sys.argv[1]), load_pair("digits")
    parts = load_references(digits)
    sets = (parts.training, parts.held_out, parts.pool)
    write_images(folder / "data", np.concatenate([part.images for part in sets]))
    x, h, f = np.split(np.arange(sum(map(len, sets))), np.cumsum([len(part) for part in sets])[:2])
    near, far = f[: len(x)], f[len(x) : len(x) + len(h)]
    for name, members, held_out in (("trained-on-h", h, far), ("scored-against-x", x, near)):
        content = pair_file(digits, name, members, held_out)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(f"sidebench train {folder}/trained-on-h.yaml --out {folder}/model")
    print(f"sidebench run {folder}/trained-on-h.yaml")
    print(f"sidebench run {folder}/scored-against-x.yaml")


if __name__ == "__main__":
    main()
