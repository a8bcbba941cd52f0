"""The files that a finished run holds beside its shards: metrics, costs, evidence. Its report is not among them.

A report is made from these files alone, by whoever wants one; an old one is removed, since its numbers may be others,
and so are the figures of `sidebench score --copying`. What rests on the pair alone is fitted once (`data.fits`), and
costs.json books its time apart.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import environment
from ..contracts import Measure
from ..data.captions import captions_of
from ..data.fits import Fits
from ..data.references import shared_groups
from ..files import cannot_write, read_json, write_atomic, write_json, write_table, write_text
from ..measures import image_quality
from ..measures.caption_accuracy import caption_accuracy
from ..measures.hits import as_distances, closest
from ..measures.pair_checks import audit_of_pair, control_of_pair, turned_of_pair
from ..measures.reach import reached
from ..measures.scorer import Scorer
from ..results import reach as reaches
from ..results.copying_figures import copying_file
from ..results.from_scores import Asked, figures, said_with_care
from ..results.guidance import guided_by_chance, read_check
from ..results.ledgers import keep_ledger
from ..results.likeness import said_of_unlike
from ..results.run_folder import RunFolder
from ..results.schema import (
    SCHEMA,
    ControlCheck,
    Cost,
    How,
    Metrics,
    Reach,
    fair_control,
    rows,
)
from ..results.unit_scores import UnitScores
from . import precision_check

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.pair import Pair
    from ..data.references import References
    from .plan import RunPlan

SAME = 1e-3
"""How far from the closest score there is two equal images may be scored."""

EVIDENCE = 12
"""Strongest pairs kept as pictures per unit."""


def write_references(folder: RunFolder, references: "References") -> None:
    """Store which data-set row each reference number is, and its duplicate group."""
    write_table(folder.references_file, references_table(references))


def references_table(references: "References") -> "pa.Table":
    """Return side, number, row of the data set and duplicate group of every reference image."""
    import pyarrow as pa

    parts = {"training": references.training, "held_out": references.held_out}
    found = captions_of(references)
    # Numbers alone: what a caption says stays out of a run folder.
    known = {} if found is None else {"caption": found.numbers.own, "family": found.numbers.families}
    texts = {name: np.concatenate(list(own.values())) for name, own in known.items()}
    return pa.table(
        {
            "side": np.concatenate([np.full(len(part), side) for side, part in parts.items()]),
            "reference": np.concatenate([np.arange(len(part)) for part in parts.values()]),
            "row": np.concatenate([part.rows for part in parts.values()]),
            "group": np.concatenate([part.groups for part in parts.values()]),
            **texts,
        }
    )


def write_results(
    plan: "RunPlan",
    folder: RunFolder,
    units: Sequence[tuple[str, str, int]],
    references: "References",
    scorer: Scorer,
) -> Metrics:
    """Compute the metrics of all finished units from the stored scores and write every artefact."""
    _remove_old(folder)
    began, fits = time.monotonic(), Fits(references.content())
    checked, turned = control_check(references, fits), turned_of_pair(references, fits)
    reach = reach_of_run(plan, references, scorer, fits)
    for name, _, _ in units:
        keep_ledger(folder, name)
    # Before the claims: where images are not of the pair's kind, nothing found says nothing.
    images = {name: folder.candidate_images(name, plan.candidates) for name, _, _ in units}
    quality = image_quality.assess(images, references, fits, scorer.path)
    for name, shares in _caption_accuracy(plan, folder, units, references).items():
        quality.setdefault(name, {}).update(shares)
    write_json(folder.path / "quality.json", quality)
    metrics, strongest, varying = _compute(plan, folder, units, references, checked, turned, reach)
    for name, _, _ in units:
        varying["units"][name]["float32"] = precision_check.compare(folder, name, plan.measures[0], scorer)
    write_json(folder.path / "audit.json", audit_of_pair(references, plan.measures, scorer, fits))
    _write_evidence(folder, strongest, references, plan)
    of_path = scorer.path.fits.spent if scorer.path is not None and scorer.path.fits is not None else {}
    varying["fits"] = {what: spent._asdict() for what, spent in (fits.spent | of_path).items()}
    made = sum(spent.seconds for spent in fits.spent.values() if not spent.kept)
    varying["results_seconds"] = time.monotonic() - began - made
    _write_numbers(folder, metrics, varying, references.fingerprint)
    return metrics


def _caption_accuracy(
    plan: "RunPlan", folder: RunFolder, units: Sequence[tuple[str, str, int]], references: "References"
) -> dict[str, dict[str, float]]:
    """Return how often an image shows its own caption, by unit and side, where captions were sent."""
    if references.training.captions is None:
        return {}
    sent = {name: folder.sent_captions(name, plan.candidates) for name, _, _ in units}
    asked = {name: (folder.candidate_images(name, plan.candidates), texts) for name, texts in sent.items()}
    return caption_accuracy(asked, references)


def _remove_old(folder: RunFolder) -> None:
    """Remove what was made of the numbers of before, and is written again for whoever asks."""
    for file in (folder.report_file, copying_file(folder)):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(file, error) from None


def _compute(
    plan: "RunPlan",
    folder: RunFolder,
    units: Sequence[tuple[str, str, int]],
    references: "References",
    checked: ControlCheck | None,
    turned: int,
    reach: list[Reach],
) -> tuple[Metrics, dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the metrics, each unit's strongest pairs, and what varies between runs (times, deviations)."""
    strongest: dict[str, list[dict[str, Any]]] = {}
    copies: dict[str, int] = {}
    headline = plan.measures[0]

    def look(name: str, scores: UnitScores) -> None:
        strongest[name] = _strongest(scores, headline)
        copies[name] = _copies(folder, name, scores, headline, references)

    fair = fair_control(plan.pair.control, checked)
    asked = Asked(units, plan.measures, plan.candidates, plan.pair.control, fair)
    captions = captions_of(references)
    numbers = None if captions is None else captions.numbers
    found = figures(folder, asked, references.groups(), look, numbers)
    metrics = Metrics(
        schema=SCHEMA,
        run_id=folder.path.name,
        pair=plan.pair.name,
        pair_revision=plan.pair.revision,
        protocol=plan.protocol.version,
        control=plan.pair.control,
        defences=plan.defence_settings(),
        training_images=len(references.training),
        held_out_images=len(references.held_out),
        training_groups=len(np.unique(references.training.groups)),
        held_out_groups=len(np.unique(references.held_out.groups)),
        control_check=checked,
        turned_held_out=turned,
        **{key: value for key, value in found._asdict().items() if key != "varying"},
        reach=reach,
        flags=sorted(
            {
                *_flags(found.results, checked, plan.pair),
                *_flags_of_data(references, turned),
                *_marks(plan, units, found.costs, copies),
                *_guided_by_chance(folder, units),
                *_unlike(folder, units),
            }
        ),
    )
    metrics.flags = sorted({*metrics.flags, *reaches.flags(metrics)})
    metrics.claims = said_with_care(folder, units, metrics)
    return metrics, strongest, found.varying


def _write_numbers(folder: RunFolder, metrics: Metrics, varying: dict[str, Any], fingerprint: str) -> None:
    """Write metrics.json and .csv, costs.json, and the data's fingerprint into the manifest."""
    import pandas as pd

    write_json(folder.path / "metrics.json", metrics.model_dump(by_alias=True, mode="json"))
    table = pd.DataFrame(rows(metrics)).to_csv(index=False, lineterminator="\n")
    write_text(folder.path / "metrics.csv", table)
    manifest, here = read_json(folder.manifest_file), environment.describe()
    folder.write_manifest({**manifest, "data": {"sha256": fingerprint}})
    environments = {
        "mixed_environment": here != manifest["environment"],
        "finished_on": here,
        "peak_memory_bytes": environment.peak_memory(),
        "peak_device_memory_bytes": environment.peak_device_memory(),
    }
    write_json(folder.path / "costs.json", {**varying, **environments})


def control_check(references: "References", fits: Fits) -> ControlCheck | None:
    """Look for a difference between the training and held-out images that are compared."""
    found = control_of_pair(references, fits)
    if found is None:
        return None
    marks = shared_groups(references.groups())
    shared = {side: own[marks[side]] for side, own in references.groups().items()}
    return ControlCheck(
        auc=found.auc,
        low=found.low,
        high=found.high,
        told_apart=found.excludes_half,
        overlapping_groups=len(np.unique(shared["training"])),
        overlapping_training=len(shared["training"]),
        overlapping_held_out=len(shared["held_out"]),
    )


def reach_of_run(plan: "RunPlan", references: "References", scorer: Scorer, fits: Fits) -> list[Reach]:
    """Return what the run's measures can see, on both sides."""
    path, measures = scorer.path, [measure for measure in plan.measures if measure.bands]
    inside = [defence.name for defence in plan.defences if defence.level != "output"]
    if inside:
        act, it = ("acts", "it") if len(inside) == 1 else ("act", "them")
        said = f"{' and '.join(inside)} {act} while an image is sampled: no reference image can be sent through {it}"
        return reaches.none(measures, said)
    if path is None or not measures:
        return reaches.identity(measures, {side: len(groups) for side, groups in references.groups().items()})
    found = reached(references, measures, scorer, path, fits)
    stretch = [*(["the model's autoencoder"] if path.autoencoder else []), *path.defences]
    how: How = "round trip" if path.autoencoder else "output defence"
    return reaches.counted(measures, how, f"through {' and '.join(stretch)}", found.images, found.counts)


def _flags(results: Sequence[Any], checked: ControlCheck | None, pair: "Pair") -> list[str]:
    flags = set()
    if not pair.verified:
        flags.add("this pair is not verified: nobody has run it against the real Hub and checked it")
    if pair.claim:
        flags.add(pair.claim)
    if changed := pair.protocol.values():
        reason = f": {pair.protocol.reason}" if pair.protocol.reason else ", and gives no reason"
        flags.add(f"the pair changes the protocol's {' and '.join(changed)}{reason}")
    if pair.control == "reference-model":
        flags.add(
            "the excess is over a reference model: it means something only if that model was not trained on these "
            "training images, which nothing here can check"
        )
    if checked is not None and checked.told_apart:
        interval = f"AUC {checked.auc:.3f} [{checked.low:.3f}, {checked.high:.3f}]"
        flags.add(f"training and held-out images are distinguishable ({interval}): the control is a surrogate")
    if checked is not None and checked.overlapping_groups:
        flags.add(
            f"{checked.overlapping_groups} duplicate groups lie on both sides: their {checked.overlapping_training} "
            f"training and {checked.overlapping_held_out} held-out images are left out of excess, calibration and "
            f"comparisons"
        )
    for result in results:
        for kind in ("nan", "constant"):
            if count := getattr(result, kind):
                flags.add(f"{result.attack} seed {result.seed}: {count} {kind} images of {result.candidates}")
    return sorted(flags)


def _flags_of_data(references: "References", turned: int) -> Iterator[str]:
    """Yield what a reader must know of how the images were read and dealt out."""
    if references.left_out:
        yield references.left_out
    if turned:
        yield (
            f"{turned:,} of {len(references.held_out):,} held-out images are training images mirrored or turned: a "
            f"model that was trained with flips has seen them, so the excess may be too small"
        )


def _marks(
    plan: "RunPlan", units: Sequence[tuple[str, str, int]], spent: Sequence[Cost], copies: Mapping[str, int]
) -> Iterator[str]:
    """Yield what no attack on a diffusion model should show: images that cost nothing, or are training images.

    The closed-form controls do both by design.
    """
    if plan.model.family == "mixture":
        return
    given = plan.model.family == "images"
    if given:
        yield (
            "images as given: sidebench did not see how they were made, so the intervals hold only if they are "
            "independent draws of one model, and none was chosen or left out"
        )
    for (name, attack, seed), cost in zip(units, spent, strict=True):
        if cost.hits and not given and not any(cost.nfe.values()):
            yield f"{attack} seed {seed}: {cost.hits} hits without one call of the denoiser"
        if copies.get(name):
            yield f"{attack} seed {seed}: {copies[name]} of {plan.candidates} images are training images, byte for byte"


def _guided_by_chance(folder: RunFolder, units: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    """Yield the guided attacks whose guidance knows nothing: what they find is what plain sampling would."""
    for name, attack, seed in units:
        checked = read_check(folder, name)
        if checked is not None and (said := guided_by_chance(checked)):
            yield f"{attack} seed {seed}: {said}"


def _unlike(folder: RunFolder, units: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    """Yield whose images are not of the pair's kind."""
    for name, attack, seed in units:
        if said := said_of_unlike(folder, name):
            yield f"{attack} seed {seed}: {said}"


def _copies(folder: RunFolder, unit: str, scores: UnitScores, measure: Measure, references: "References") -> int:
    """Count a unit's candidates that are their nearest training image in every byte."""
    best, nearest = scores.best_scores[measure.id, "training"], scores.best_ids["training"]
    close = np.abs(best - closest(measure)) <= SAME
    if not close.any():
        return 0
    found, start = 0, 0
    for images in folder.candidate_images(unit, scores.candidates):
        rows = np.flatnonzero(close[start : start + len(images)])
        same = images[rows].numpy() == references.training.images[nearest[start + rows]]
        found += int(same.reshape(len(rows), -1).all(axis=1).sum())
        start += len(images)
    return found


def _strongest(scores: UnitScores, measure: Any) -> list[dict[str, Any]]:
    """Return the closest pairs by the headline measure, at most one per training image, closest first."""
    best = scores.best_scores[measure.id, "training"]
    order = np.argsort(as_distances(best, measure), kind="stable")
    chosen: dict[int, dict[str, Any]] = {}
    for position in order[~np.isnan(best[order])]:
        reference = int(scores.best_ids["training"][position])
        if reference not in chosen:
            if len(chosen) == EVIDENCE:
                break
            chosen[reference] = {
                "candidate": int(scores.numbers[position]),
                "reference": reference,
                "score": float(best[position]),
            }
    return list(chosen.values())


def _write_evidence(
    folder: RunFolder, strongest: dict[str, list[dict[str, Any]]], references: "References", plan: "RunPlan"
) -> None:
    """Write the strongest pairs as pictures, generated image left and training image right."""
    from PIL import Image

    for name, pairs in strongest.items():
        target = folder.path / "evidence" / name
        for old in target.glob("*.png"):
            old.unlink()
        for rank, pair in enumerate(pairs, start=1):
            image = folder.candidate_image(name, pair["candidate"])
            both = [image.numpy(), references.training.images[pair["reference"]]]
            picture = Image.fromarray(_side_by_side(both))
            file = target / f"{rank:02d}-candidate{pair['candidate']}-training{pair['reference']}.png"
            write_atomic(file, lambda path, picture=picture: picture.save(path, format="PNG"))  # type: ignore[misc]
        write_json(target / "pairs.json", {"measure": plan.measures[0].id, "pairs": pairs})


def _side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Join C x H x W images with a gap, enlarged without smoothing to at least 96 pixels a side."""
    scale = max(1, 96 // images[0].shape[1])
    tiles = [np.repeat(np.repeat(image, scale, 1), scale, 2) for image in images]
    gap = np.full((tiles[0].shape[0], tiles[0].shape[1], 8), 255, dtype=np.uint8)
    joined = np.concatenate([tiles[0], gap, tiles[1]], axis=2)
    if joined.shape[0] not in (1, 3):
        joined = joined[:1]
    picture = joined.transpose(1, 2, 0)
    return picture[..., 0] if picture.shape[2] == 1 else picture
