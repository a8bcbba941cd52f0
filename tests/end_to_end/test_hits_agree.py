"""Everything that says what a hit is says the same at an edge: run, score, threshold, audit, sheet, report and gate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pytest
import torch

from sidebench.benchmark.contracts import AttackState, Band, Measure, Neighbours, Side
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.files import read_json, write_json, write_state, write_table
from sidebench.benchmark.gate import claims
from sidebench.benchmark.gate.baseline import RunBaseline
from sidebench.benchmark.gate.checks import check_detector, check_model_path
from sidebench.benchmark.measures.detector_audit import audit
from sidebench.benchmark.measures.hits import band_to, in_band
from sidebench.benchmark.measures.metrics import AverageMemorizationScore, UniqueMemorizationScore
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.reports import label_sheet
from sidebench.benchmark.reports.rates_by_threshold import by_threshold
from sidebench.benchmark.reports.strongest_pairs import strongest_pairs
from sidebench.benchmark.results import rescore
from sidebench.benchmark.results.rates import attack_hits, measure_result
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import SideResult
from sidebench.benchmark.results.score_files import read_scores, write_scores
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.results.unit_scores import UnitScores, stored_groups
from sidebench.benchmark.runs import precision_check

EDGES = [step / 10 for step in range(1, 10)]
UNIT, SPACE = "made.s0", "planted"
NUMBERS = np.arange(3)
SHARD = shard_of(range(3))


class Planted(Measure):
    """The distances themselves: a distance with this name."""

    name: ClassVar[str] = "planted"
    title: ClassVar[str] = "scores as they are stored"
    paper: ClassVar[str] = "-"
    space: ClassVar[str] = SPACE
    distance: ClassVar[bool] = True
    floor = 1.0
    bin_width = 0.1

    def descriptors(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is searched for")

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        return distances

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        return np.full(len(training.ids), self.floor, dtype=np.float32)


class PlantedSimilarity(Planted):
    """The same numbers read as similarities."""

    distance: ClassVar[bool] = False
    floor = 0.0


def planted(edge: float, distance: bool) -> tuple[Measure, ShardScores]:
    """Return a measure with a band that ends at the edge, and three candidates just before, at and behind it.

    Candidate i is nearest to image i on either side.
    """
    measure = Planted() if distance else PlantedSimilarity()
    near, far = (Band("near", 0.0, edge), Band("far", edge, 1.0)), (Band("near", edge, 1.0), Band("far", 0.0, edge))
    measure.bands = near if distance else far
    at = np.float32(edge)
    scores = np.array([np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))])[:, None]
    ids = NUMBERS.astype(np.int32)[:, None]
    neighbours: dict[Side, Neighbours] = dict.fromkeys(("training", "held_out"), Neighbours(ids, scores, scores))
    pairs: dict[Side, Pairs] = dict.fromkeys(("training", "held_out"), Pairs(ids[:, 0], ids[:, 0], scores[:, 0]))
    no = np.zeros(3, dtype=bool)
    return measure, ShardScores(NUMBERS, no, no, neighbours, pairs)


def made_references() -> References:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    parts = [ImageSet(images, NUMBERS + 10 * start, NUMBERS + 10 * start) for start in range(2)]
    return References(parts[0], parts[1], parts[0].take(NUMBERS[:0]), parts[0].take(NUMBERS[:0]), "f" * 64)


def made_run(path: Path, measure: Measure, scores: ShardScores, references: References) -> RunFolder:
    folder = RunFolder(path)
    identity = {
        "candidates": 3,
        "protocol": {"shard": 8, "top_k": 1},
        "measures": [measure.id],
        "pair": "made",
        "pair_identity": "made",
        "defences": {},
        "model": {"family": "pixel", "sha256": {}},
    }
    folder.write_manifest(
        {
            "identity": identity,
            "units": {UNIT: {"attack": "made", "seed": 0, "settings": {}, "access": "samples"}},
            "control": "iid",
            "data": {"sha256": references.fingerprint},
        }
    )
    table = {"side": ["training"] * 3 + ["held_out"] * 3, "group": np.r_[NUMBERS, NUMBERS + 10]}
    write_table(folder.path / "references.parquet", pa.table(table))
    write_state(folder.images_file(UNIT, SHARD), AttackState({"images": torch.from_numpy(references.training.images)}))
    write_scores(folder, UNIT, SPACE, SHARD, scores, [measure], {})
    found = [{"candidate": i, "reference": i, "score": float(scores.pairs["training"].distances[i])} for i in range(3)]
    write_json(folder.path / "evidence" / UNIT / "pairs.json", {"pairs": found})
    return folder


def counts(side: SideResult) -> set[int]:
    return {side.ams.count, side.ums.count, side.ums_best.count}


@pytest.mark.parametrize("distance", [True, False], ids=["distance", "similarity"])
@pytest.mark.parametrize("edge", EDGES)
def test_all_agree_at_the_edge(edge: float, distance: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, shard = planted(edge, distance)
    references = made_references()
    folder = made_run(tmp_path / "run", measure, shard, references)
    for module in (rescore, label_sheet):
        monkeypatch.setattr(module, "make_measure", lambda _: measure)
    scorer = cast(
        Any,
        SimpleNamespace(
            score=lambda *_: shard, score_finite=lambda *_: shard, as_compared=lambda _, images: images, path=None
        ),
    )
    wanted = [True, True, False] if distance else [False, True, True]

    # A run, and `sidebench score`.
    stored, groups = UnitScores([read_scores(folder, UNIT, SPACE, SHARD)], [measure]), stored_groups(folder)
    hits = attack_hits(measure, measure.bands[0], stored, groups)
    # Both sides are equally near, so each owns half of a candidate.
    assert hits.training_hits.tolist() == hits.control_hits.tolist() == [0.5 * hit for hit in wanted]
    again = rescore.rescore(folder, measure.bands)[0]
    for result in (measure_result("made", 0, measure, stored, groups), again):
        near, far, union = result.bands
        assert counts(near.training) == {2} and counts(far.training) == {1} and counts(union.training) == {3}

    # Rates by threshold, the strongest pairs' bands and the bins of a report.
    curves = by_threshold(measure, stored, groups)
    assert curves.ams["training"][curves.thresholds.index(edge), 0] == pytest.approx(2 / 3)
    shown = strongest_pairs(folder, UNIT, measure, stored, groups["training"], b"key", with_images=False)
    assert [pair.band == "near" for pair in shown] == wanted
    bins = pa.parquet.read_table(folder.scores_file(UNIT, SPACE, SHARD, "bins")).to_pandas()
    bins = bins[~bins["held_out"]].sort_values("reference")["bin"].to_numpy()
    place = round(edge / measure.bin_width)
    assert (bins <= place if distance else bins >= place).tolist() == wanted
    assert precision_check.bands_hit(torch.zeros(3), measure, scorer)[:, 0].tolist() == wanted

    # A threshold: the band that ends at it.
    assert in_band(stored.best_scores[measure.id, "training"], band_to(edge, measure), measure).tolist() == wanted

    # The detector's audit, and the gate that reads it, with the edge as a policy and as a calibration gives it.
    judged = audit(references, [measure], scorer, 0, 3, kinds=("identical",))["measures"][measure.id]
    assert judged["copies"][0]["any"]["count"][judged["thresholds"].index(edge)] == 2
    for tau in (edge, float(np.float32(edge))):
        assert "identical 67%" in check_detector(references, measure, scorer, tau).said
        model = cast(Any, SimpleNamespace(encode=lambda x: x, decode=lambda x: x, device="cpu"))
        assert "67% of known" in check_model_path(model, references, measure, scorer, tau).said
        nothing = np.zeros(3, dtype=bool)
        sides = claims.Sides.of((NUMBERS, NUMBERS), (nothing, nothing))
        candidates = claims.tested(claims.matched(shard, measure, sides), tau, sides, measure)
        assert candidates.training.tolist() == candidates.held_out.tolist() == wanted
        attack = cast(Any, SimpleNamespace(name="made"))
        before = RunBaseline(folder.path).hits(attack, 0, measure, tau, sides, NUMBERS)
        assert before.training_hits.tolist() == candidates.owned.tolist() == [0.5 * hit for hit in wanted]

    # The label sheet: its strata, and the precision among the answers.
    label_sheet.make_sheet(folder, references, measure.id)
    key = read_json(folder.path / "label" / "key.json")
    items = sorted((i for i in key["items"].values() if i["set"] == "training"), key=lambda item: item["candidate"])
    assert [item["stratum"] <= key["thresholds"].index(edge) for item in items] == wanted
    answers = {
        "schema": label_sheet.ANSWERS_SCHEMA,
        "sheet": key["sheet"],
        "answers": dict.fromkeys(key["items"], "copy"),
    }
    write_json(folder.path / "label" / "answers.json", answers)
    rows = label_sheet.precision(folder)["sets"]["training"]["by_threshold"]
    assert [row["decided"] for row in rows if row["threshold"] == edge] == [2]

    # The metrics for one's own loop.
    ams = AverageMemorizationScore(measure.bands[0], distance=distance)
    ums = UniqueMemorizationScore(measure.bands[0], 3, distance=distance)
    scores = torch.from_numpy(shard.pairs["training"].distances)
    ams.update(scores)
    ums.update(torch.arange(3), scores, 3)
    assert float(ams.compute()) == float(ums.compute()) == pytest.approx(2 / 3)
