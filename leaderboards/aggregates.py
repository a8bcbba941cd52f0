"""Records of images that are not public: what was hit, by preparation and band, and nothing about any one image.

A bit per candidate marks, for whoever has the model and the seed, which generated images are training images; the
number of candidates by named group does so by its profile. Such a record holds sums alone, and its seeds are not told.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..benchmark.results.schema import Cost, Result
from ..benchmark.stats.comparison import AttackHits
from .record import FEWEST, Cell, Counts, PairedCounts, Record, Shares, command


def aggregated(
    record: Record,
    numbers: Mapping[int, int],
    nonce: str,
    shares: Sequence[Shares],
    paired: Sequence[PairedCounts] = (),
) -> Record:
    """Return the record without bits, named groups and curves, its preparations numbered.

    `numbers` is the number of each preparation by seed; `shares` is what they hit, and `paired` what the run's other
    attacks hit beside them, by those numbers.
    """
    seeds = sorted(record.seeds, key=numbers.__getitem__)
    by_seed: dict[int, list[Result]] = {seed: [each for each in record.results if each.seed == seed] for seed in seeds}
    costs: dict[int, Cost] = {cost.seed: cost for cost in record.costs}
    hashes = {
        key: {str(numbers[int(seed)]): digest for seed, digest in getattr(record.hashes, key).items()}
        for key in ("scores", "state", "ledger")
    }
    found = record.model_copy(
        update={
            "seeds": [numbers[seed] for seed in seeds],
            "results": [
                each.model_copy(update={"seed": numbers[seed], "richness": None})
                for seed in seeds
                for each in by_seed[seed]
            ],
            "costs": [costs[seed].model_copy(update={"seed": numbers[seed]}) for seed in seeds],
            **{
                name: [each.model_copy(update={"seed": numbers[each.seed]}) for each in getattr(record, name)]
                for name in ("own_images", "caption_flags", "exposures")
            },
            "hits": [],
            "shares": sorted(shares, key=lambda share: share.seed),
            "paired": sorted(paired, key=lambda each: each.seed),
            "nonce": nonce,
            "hashes": record.hashes.model_copy(update=hashes),
            "victim": record.victim.model_copy(update={"public": False}),
        }
    )
    return found.model_copy(update={"command": command_of(found)})


def shares_of(number: int, band: str, hits: AttackHits) -> Shares:
    """Return the sums of what one preparation hit in a band."""
    return Shares(
        seed=number,
        band=band,
        training=float(hits.training_credits.sum()),
        control=float(hits.control_credits.sum()),
        training_groups=histogram(hits.training_credits),
        control_groups=histogram(hits.control_credits),
    )


def paired_counts(ours: AttackHits, theirs: AttackHits) -> tuple[Counts, Counts, Counts]:
    """Return how the same candidates fared under two attacks: rows ours, columns theirs.

    Examples:
        Of four candidates we own the first for training, and half of the second; they own the first two.

        >>> ours = AttackHits(np.array([1, 0.5, 0, 0]), np.array([0, 0.5, 0, 0]), np.ones(1), np.ones(1))
        >>> theirs = AttackHits(np.array([1, 1, 0, 0]), np.zeros(4), np.ones(1), np.ones(1))
        >>> paired_counts(ours, theirs)
        ((1.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.0, 2.0))
    """
    sides = []
    for hits in (ours, theirs):
        owned = np.stack([hits.training_hits, hits.control_hits]).astype(np.float64)
        sides.append(np.concatenate([owned, 1 - owned.sum(axis=0, keepdims=True)]))
    table = (sides[0] @ sides[1].T).tolist()
    first, second, third = (tuple(row) for row in table)
    return first, second, third


def histogram(credits: np.ndarray) -> list[Cell]:
    """Return how many groups own how many candidates; fewer than five groups stand in no cell of their own.

    Cells are filled from the groups that own least; what is left at the end goes into the last one. Fewer than five
    groups in all give no cell.

    Examples:
        Six groups own one candidate each, two own two, three own nine.

        >>> [(cell.least, cell.most, cell.groups) for cell in histogram(np.repeat([0, 1, 2, 9], [40, 6, 2, 3]))]
        [(1, 1, 6), (2, 9, 5)]
    """
    owned = np.sort(credits[credits > 0])
    whole = np.ceil(owned).astype(np.int64)
    ends = [0]
    for end in np.searchsorted(whole, np.unique(whole), side="right"):
        if end - ends[-1] >= FEWEST:
            ends.append(int(end))
    if len(ends) > 1:
        ends[-1] = len(whole)
    return [
        Cell(
            least=int(whole[start]),
            most=int(whole[end - 1]),
            groups=end - start,
            candidates=float(owned[start:end].sum()),
        )
        for start, end in pairwise(ends)
    ]


def command_of(record: Record) -> str:
    """Return the command that makes the record's run again, as far as it may be told."""
    measures = list(dict.fromkeys(result.measure for result in record.results))
    claim: dict[str, dict[str, Any]] = {record.claim.attack: record.claim.settings}
    secret = len(record.seeds) if record.nonce is not None else 0
    seeds = () if secret else record.seeds
    return command(record.victim.name, claim, record.claim.defences, record.candidates, seeds, measures, secret)
