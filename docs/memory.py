"""How much memory a large set of reference images needs: python docs/memory.py FOLDER [NUMBER]

Writes NUMBER (200,000) smooth random 64 x 64 JPEGs as parquet into FOLDER, prepares them as a pair's references with
duplicate groups at an rms of 0.02, and prints the largest resident size, which holds the interpreter and torch too.
"""

import io
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE, PER_FILE = 64, 10_000


def picture(draw: np.random.Generator) -> bytes:
    """Return a JPEG of 8 x 8 random colours, enlarged."""
    out = io.BytesIO()
    colours = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
    return out.getvalue()


def main() -> None:
    """Write, prepare, print."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    os.environ["HF_HOME"] = str(folder / "home")
    from sidebench.benchmark.data.pair import DataSource, Selection, SplitRule, load_pair
    from sidebench.benchmark.data.references import load_references
    from sidebench.benchmark.environment import peak_memory

    draw = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for start in range(0, number, PER_FILE):
        rows = [{"bytes": picture(draw), "path": None} for _ in range(min(PER_FILE, number - start))]
        pq.write_table(pa.table({"image": rows}), folder / "data" / f"train-{start:07d}.parquet", row_group_size=1000)
    split = SplitRule(seed=0, duplicate_rms=0.02, training=number // 2, held_out=number // 4, pool=0)
    members = Selection(split="train")
    data = DataSource(source="folder", path=str(folder / "data"), size=SIDE, members=members, split=split)
    began = time.process_time()
    load_references(load_pair("digits").model_copy(update={"data": data}))
    print(f"{number:,} images: {peak_memory() / 1e9:.2f} GB, {time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
