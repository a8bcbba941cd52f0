"""Folders of `sidebench detect` on the shipped pair glyphs, with scores drawn at random and no model."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.files import write_checked_json, write_table
from sidebench.benchmark.registry import make_detector
from sidebench.benchmark.results.detection import (
    PROVENANCE,
    DetectionResult,
    DetectorUsed,
    Provenance,
    Replay,
    against,
    counted,
)

KINDS = ("memorised", "not replayed", "never seen")


def detection_folder(folder: Path, draw: int = 0, seed: int = 0, **changes: Any) -> Path:
    """Write a detection of 48 memorised, 25 not replayed, 130 never-seen and 4 ambiguous prompts by two detectors.

    `changes` go to detection.json or, by name, to provenance.json.
    """
    rng, pair = np.random.default_rng(draw), load_pair("glyphs")
    labels = np.repeat([*KINDS, "ambiguous"], [48, 25, 130, 4])
    families = np.concatenate([np.repeat(np.arange(24), 2), np.arange(24, len(labels) - 24)])
    scored = labels != "ambiguous"
    truth = (labels[scored] == "memorised").astype(float)
    scores = {
        "dsm": (truth + rng.normal(size=len(truth))).round(1),  # with equal ones
        "noise-norm": 3 * truth + rng.normal(size=len(truth)),
    }
    used = [
        DetectorUsed(
            detector=name,
            version=1,
            settings=make_detector(name, {}).settings.model_dump(mode="json"),
            code={"package": "sidebench", "version": "0.1.0"},
            prompts=len(truth),
            nfe=6 * len(truth),
            flops=1.0,
        )
        for name in scores
    ]
    result = DetectionResult(
        pair="glyphs",
        plan={"pair": pair.identity(), "prompts": "5" * 64},
        seed=seed,
        counts=counted(labels, families),
        cut=0,
        dropped=0,
        replay=Replay(images=4, steps=50, guidance_scale=3.0, measure="nl2c:n50:a0.5", nfe=2 * 4 * 50 * 77),
        detectors=used,
        against=[against(kind, scores, labels[scored], families[scored], seed) for kind in KINDS[1:]],
    )
    noted = Provenance(
        schema=PROVENANCE,
        pair="glyphs",
        revision=pair.revision,
        identity=pair.identity(),
        family="text",
        control="iid",
        sources={},
        model_sha256=dict(pair.model.sha256),
        data_sha256=str(pair.data.sha256),
        sides_sha256="a" * 64,
        training_images=256,
        held_out_images=256,
        training_groups=250,
        held_out_groups=251,
        public=True,
        made_by="",
        negatives=100,
        device="cpu",
        micro_batch=64,
        started=f"2026-01-01T00:00:{draw:02d}+00:00",
        environments=[
            {
                **{"processor": "a processor", "system": "Linux x86_64", "cores": 2, "threads": 1},
                **{"versions": {"python": "3.11"}, "accelerator": None, "code": "0"},
            }
        ],
    )
    result = result.model_copy(update={k: v for k, v in changes.items() if k in DetectionResult.model_fields})
    noted = noted.model_copy(update={k: v for k, v in changes.items() if k in Provenance.model_fields})
    folder.mkdir(parents=True)
    columns = {"prompt": np.flatnonzero(scored), "family": families[scored], "label": labels[scored].tolist()}
    write_table(folder / "scores.parquet", pa.table({**columns, **scores}))
    write_checked_json(folder / "provenance.json", noted.model_dump(mode="json", by_alias=True))
    write_checked_json(folder / "detection.json", result.model_dump(mode="json", by_alias=True))
    return folder
