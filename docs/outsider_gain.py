"""What a leaderboard record tells an outsider who has the model: which generated images are training images?

    python docs/outsider_gain.py RUN ATTACK SEED

An outsider who knows a seed makes the same candidates and sees which of them come again: memorised images do. He names
as many candidates as the record counts. Printed is the share of them that a training image owns in the closest band,
for what he may know. RUN is a run folder of public images with its candidates in it.
"""

import sys
from collections.abc import Sequence

import numpy as np

from sidebench.benchmark.data.duplicates import duplicate_groups
from sidebench.benchmark.files import read_json
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.run_folder import asked_candidates, read_run, unit_name
from sidebench.benchmark.results.unit_scores import stored_groups
from sidebench.leaderboards.aggregates import histogram
from sidebench.leaderboards.make_records import unit_hits
from sidebench.leaderboards.record import Cell

ALIKE = 0.05
"""Root mean square difference below which two candidates are one image to the outsider."""


def named_by_size(sizes: np.ndarray, clusters: np.ndarray, wanted: int) -> np.ndarray:
    """Return the candidates of the largest clusters first, as many as wanted."""
    return np.argsort(-sizes[clusters], kind="stable")[:wanted]


def named_by_profile(sizes: np.ndarray, clusters: np.ndarray, counts: Sequence[float]) -> np.ndarray:
    """Return the members of one cluster for each group's count: the one that is nearest to it in size."""
    free, chosen = np.ones(len(sizes), dtype=bool), []
    for count in sorted(counts, reverse=True):
        distances = np.where(free, np.abs(sizes - count), np.inf)
        place = int(np.argmin(distances))
        free[place] = False
        chosen.append(place)
    return np.flatnonzero(np.isin(clusters, chosen))


def named_by_cells(sizes: np.ndarray, clusters: np.ndarray, cells: Sequence[Cell]) -> np.ndarray:
    """Return the members of as many clusters as each cell has groups, of sizes that it allows."""
    chosen: list[int] = []
    for cell in reversed(cells):
        fitting = [place for place in np.argsort(-sizes) if cell.least <= sizes[place] <= cell.most]
        chosen += [int(place) for place in fitting if place not in chosen][: cell.groups]
    return np.flatnonzero(np.isin(clusters, chosen))


def main(run: str, attack: str, seed: str) -> None:
    """Print a line for each thing that the outsider may know."""
    folder, unit = read_run(run), unit_name(attack, int(seed))
    measure = make_measure(read_json(folder.manifest_file)["identity"]["measures"][0])
    (found,) = unit_hits(folder, unit, measure, stored_groups(folder), measure.bands[:1])
    count = asked_candidates(read_json(folder.manifest_file))
    images = np.concatenate([part.numpy() for part in folder.candidate_images(unit, count)])
    clusters = np.unique(duplicate_groups(images, ALIKE), return_inverse=True)[1]
    sizes, owned = np.bincount(clusters).astype(float), found.training_hits
    wanted = round(float(owned.sum()))
    counts = found.training_credits[found.training_credits > 0]
    guesses = {
        "nothing but a share: draws his own": named_by_size(sizes, clusters, wanted),
        "the seed, and a count for each named group": named_by_profile(sizes, clusters, counts.tolist()),
        "the seed, and cells of five groups or more": named_by_cells(sizes, clusters, histogram(counts)),
        "the seed, and a bit for each candidate": np.flatnonzero(owned > 0),
    }
    print(f"{attack}, seed {seed}: {wanted} of {count} candidates are owned; named at random, {wanted / count:.0%} are")
    for knows, named in guesses.items():
        print(f"  {knows:45} {len(named):5,} named, {owned[named].mean():4.0%} right")


if __name__ == "__main__":
    main(*sys.argv[1:])
