"""What scoring against many references costs: python docs/scoring_memory.py [REFERENCES SHARDS]

Scores SHARDS (4) of 256 random images of 32 x 32 x 3 against REFERENCES (200,000), half of them held out, by the
default measures. Prints processor seconds of each shard, hours for 10^6 candidates from all but the first, and the
largest resident size, which holds the interpreter, torch and the images too.
"""

import sys
import time

import numpy as np
import torch

from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.environment import peak_memory
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.protocol import SHARD, TOP_K, default_measures
from sidebench.benchmark.registry import make_measure

SHAPE = (3, 32, 32)


def random_references(draw: np.random.Generator, number: int) -> References:
    """Return random images, the second half held out; drawn in pieces and never copied."""
    images = np.empty((number, *SHAPE), dtype=np.uint8)
    for piece in np.array_split(images, max(1, number // 10_000)):
        piece[:] = draw.integers(0, 256, piece.shape, dtype=np.uint8)
    rows, half = np.arange(number), number // 2
    training, held_out, none = (
        ImageSet(images[part], rows[part], rows[part]) for part in (slice(half), slice(half, None), slice(0))
    )
    return References(training, held_out, none, none, "random")


def main() -> None:
    """Score, print."""
    number, shards = (int(word) for word in [*sys.argv[1:], *("200000", "4")[len(sys.argv) - 1 :]])
    draw = np.random.default_rng(0)
    known = random_references(draw, number)
    measures = [make_measure(name) for name in default_measures(SHAPE[1] * SHAPE[2], smallest=number // 2)]
    scorer = Scorer(known, measures, TOP_K, torch.device("cpu"))
    spent = []
    for _ in range(shards):
        shard = torch.from_numpy(draw.integers(0, 256, (SHARD, *SHAPE), dtype=np.uint8))
        began = time.process_time()
        scorer.score_finite(shard, measures[0].space)
        spent.append(time.process_time() - began)
    hours = 1e6 / SHARD * float(np.median(spent[1:] or spent)) / 3600
    print(f"{number:,} references: {' '.join(f'{each:.1f}' for each in spent)} s a shard, the first with descriptors")
    print(f"10^6 candidates: {hours:.1f} h of {torch.get_num_threads()} threads; {peak_memory() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
