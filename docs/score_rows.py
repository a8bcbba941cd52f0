"""How long the statistics of a large run take: python docs/score_rows.py FOLDER [CANDIDATES] [REFERENCES]

Writes the score shards of one unit of CANDIDATES (1,048,576) against REFERENCES (50,000) random images a side into
FOLDER, 64 distinct ones repeated as often as are needed, and times what a run does with them: reading, and every
rate, interval, calibration, curve and test of the three default measures.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from sidebench.benchmark.contracts import Neighbours, Side
from sidebench.benchmark.environment import peak_memory
from sidebench.benchmark.measures.shard_scores import SIDES, Pairs, ShardScores
from sidebench.benchmark.protocol import SHARD, TOP_K, default_measures
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.rates import attack_hits, compare_attacks, measure_result
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.score_files import read_all_scores, write_scores
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.results.unit_scores import UnitScores

UNIT, SPACE, DIFFERENT = "carlini-uncond.s0", "pixels", 64
HITS, FOUND = 0.3, 4
"""Share of the candidates that have training images in the widest band, and how many each of them has."""


def shard(number: int, references: int, draw: np.random.Generator) -> ShardScores:
    """Return random scores: distances around 0.3, those of hits below half of that."""
    neighbours: dict[Side, Neighbours] = {}
    pairs: dict[Side, Pairs] = {}
    for side in SIDES:
        distances = 0.3 + 0.01 * draw.standard_normal((SHARD, TOP_K))
        ids = draw.integers(0, references, (SHARD, TOP_K), dtype=np.int32)
        if side == "training":
            hit = np.flatnonzero(draw.random(SHARD) < HITS)
            distances[hit, :FOUND] = 0.15 * draw.random((len(hit), FOUND))
        distances = np.sort(distances, axis=1).astype(np.float32)
        neighbours[side] = Neighbours(ids, distances, distances)
        rows, columns = np.nonzero(distances <= distances.mean(axis=1, keepdims=True) / 2)
        pairs[side] = Pairs(rows.astype(np.int32), ids[rows, columns], distances[rows, columns])
    none = np.zeros(SHARD, dtype=bool)
    return ShardScores(np.arange(number * SHARD, (number + 1) * SHARD), none, none, neighbours, pairs)


def main() -> None:
    """Write, time, print."""
    folder = RunFolder(Path(sys.argv[1]))
    candidates, references = (int(given) for given in [*sys.argv[2:], 2**20, 50_000][:2])
    measures = [make_measure(name) for name in default_measures(32 * 32)]
    draw, shards = np.random.default_rng(0), -(-candidates // SHARD)
    different = [shard(number, references, draw) for number in range(min(DIFFERENT, shards))]
    for number in range(shards):
        numbers = range(number * SHARD, (number + 1) * SHARD)
        scores = replace(different[number % DIFFERENT], candidates=np.array(numbers))
        write_scores(folder, UNIT, SPACE, shard_of(numbers), scores, measures, {})
    groups: dict[Side, np.ndarray] = {side: np.arange(references) + i * references for i, side in enumerate(SIDES)}

    began, at = time.process_time(), time.monotonic()
    scores = UnitScores(read_all_scores(folder, UNIT, SPACE, shards * SHARD), measures)
    read, read_at = time.process_time() - began, time.monotonic() - at
    for measure in measures:
        measure_result("carlini-uncond", 0, measure, scores, groups)
    hits = attack_hits(measures[0], measures[0].bands[0], scores, groups)
    compare_attacks([("one", 0), ("two", 0)], [hits, hits], measures[0], measures[0].bands[0])
    pairs = len(scores.pair_ids[measures[0].id, "training"])
    rest, rest_at = time.process_time() - began - read, time.monotonic() - at - read_at
    print(f"{scores.candidates:,} candidates, {references:,} images a side, {pairs:,} pairs in the stored range")
    print(f"reading: {read:.0f} s of one core, {read_at:.0f} s by the clock")
    print(f"all statistics: {rest:.0f} s of one core, {rest_at:.0f} s by the clock")
    print(f"peak memory: {peak_memory() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
