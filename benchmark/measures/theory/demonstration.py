"""`sidebench theory`: the estimators against closed forms, and the divergence of a pair's model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...contracts import PredictionType
from ...data.pair import Pair
from ...environment import pick_device
from ...errors import BadInput
from ...models.analytic import MixtureModel
from .density import OdeSettings, closed_log_density, log_density, smallest_noise
from .divergence import Divergence, memorization_divergence, reference_divergence
from .theorem import Theorem, draw_training, memorised_model, theorem_one

TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")


def demonstration(
    seed: int = 0, *, steps: int = 100, points: int = 64, draws: int = 256, epsilon: float = 0.05
) -> dict[str, Any]:
    """Check the estimators on Gaussian mixtures, where every answer has a closed form, and Theorem 1.

    Plain values, ready for JSON: "log_density" (ODE against closed form), "divergence" (M against closed-form
    densities with many draws), "theorem" (gaps against their limits), "smallest_noise" and the settings.

    Raises:
        TooFew: fewer than two points or draws.
        BadInput: `epsilon` does not lie above the smallest noise.
    """
    exact = OdeSettings(steps=steps, trace="exact", batch=1024)
    probed = OdeSettings(steps=steps, trace="hutchinson", probes=16)
    cases = [(shape, kind, exact) for shape in ((1, 1, 1), (1, 2, 2)) for kind in TYPES]
    cases += [(shape, "epsilon", probed) for shape in ((1, 2, 2), (1, 4, 4))]
    data = _example((1, 2, 2), "epsilon")
    return {
        "seed": seed,
        "steps": steps,
        "points": points,
        "draws": draws,
        "epsilon": epsilon,
        "smallest_noise": smallest_noise(data),
        "log_density": [_density_row(shape, kind, settings, draws, seed) for shape, kind, settings in cases],
        "divergence": _divergence_rows(data, points, draws, epsilon, exact, seed),
        "theorem": [_plain(row) for row in theorem_one(data, [0, 0, 1, 1], seed=seed, settings=exact)],
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Return what `demonstration` found as three tables."""
    from tabulate import tabulate

    density = [
        [
            row["dimensions"],
            row["prediction_type"],
            f"{row['probes']} probes" if row["probes"] else "exact",
            f"{row['mean_absolute_error']:.1e}",
            f"{row['largest_error']:.1e}",
            _number(row["mean_error"], 4),
            _number(row["probe_error"], 4) if row["probes"] else "-",
        ]
        for row in found["log_density"]
    ]
    divergence = [
        [
            row["model"],
            row["points"],
            row["draws"],
            _number(row["estimate"]),
            _span(row["interval"]),
            _number(row["reference"]),
            _number(row["reference_error"]),
            f"{row['solver_change']:.1e}",
        ]
        for row in found["divergence"]
    ]
    theorem = [[row["label"], row["models"], row["subset"], *_figures(row)] for row in found["theorem"]]
    heads = (
        ["dimensions", "prediction", "trace", "mean |error|", "largest", "mean error", "its probe error"],
        ["model", "points", "draws", "M", "95 % interval", "closed form", "+-", "steps halved"],
        ["label", "models", "|D_i|", "gap", "95 % interval", "-KL(p_i || p)", "+-"],
    )
    titles = (
        f"log density in nats: ODE, {found['steps']} steps, against the closed form of Gaussian mixtures",
        f"memorization divergence M(D; p, eps) in nats, eps = {found['epsilon']:g}; smaller: more memorised",
        "Theorem 1: M(D_i; p_i, eps) - M(D_i; p, eps) in nats; negative: conditioning memorises more",
    )
    note = f"densities are those at the first timestep, x_0 blurred by noise of deviation {found['smallest_noise']:.4f}"
    tables = [
        f"{title}\n{tabulate(rows, headers=head, tablefmt='plain', disable_numparse=True)}"
        for title, head, rows in zip(titles, heads, (density, divergence, theorem), strict=True)
    ]
    return "\n\n".join([*tables, note])


def _example(shape: tuple[int, int, int], kind: PredictionType) -> MixtureModel:
    """Return four components of different weight in two pairs that overlap."""
    size = int(np.prod(shape))
    sides = torch.tensor([-0.6, -0.25, 0.3, 0.7]).view(-1, 1).expand(-1, size).clone()
    sides[1::2, : size // 2] *= -1
    return MixtureModel(sides.view(-1, *shape), 0.25, torch.tensor([0.15, 0.2, 0.25, 0.4]), kind)


def _density_row(
    shape: tuple[int, int, int], kind: PredictionType, settings: OdeSettings, draws: int, seed: int
) -> dict[str, Any]:
    model = _example(shape, kind)
    x, _ = draw_training(model, draws, seed, "density")
    found = log_density(model, x, settings, seed=seed)
    errors = found.values - closed_log_density(model, x)
    return {
        "dimensions": int(np.prod(shape)),
        "prediction_type": kind,
        "probes": found.probes,
        "mean_absolute_error": float(errors.abs().mean()),
        "largest_error": float(errors.abs().max()),
        "mean_error": float(errors.mean()),
        "probe_error": float(found.probe_errors.square().sum().sqrt()) / len(x),
    }


def _divergence_rows(
    data: MixtureModel, points: int, draws: int, epsilon: float, settings: OdeSettings, seed: int
) -> list[dict[str, Any]]:
    if epsilon <= smallest_noise(data):
        raise BadInput(f"epsilon {epsilon} must lie above the smallest noise, {smallest_noise(data):.4g}")
    training, _ = draw_training(data, points, seed, "divergence")
    models = {
        "memorised": memorised_model(training, epsilon, data),
        "half memorised": memorised_model(training[: points // 2], 3 * epsilon, data),
        "data density": data,
    }
    rows = []
    for name, model in models.items():
        found = memorization_divergence(model, training, epsilon, settings, draws=draws, seed=seed)
        value, error = reference_divergence(model, training, epsilon, seed=seed)
        rows.append({"model": name, **_plain(found), "reference": value, "reference_error": error})
    return rows


def divergence_of_pair(
    pair: Pair, epsilon: float, *, draws: int = 64, seed: int = 0, device: str = "auto", steps: int = 50
) -> dict[str, Any]:
    """Estimate M of a pair's model on its training images and, as a control, on its held-out ones if it has any.

    `epsilon` is in the model's own space, [-1, 1] for pixels. One Hutchinson probe a draw; as many images
    of each side as the smaller side has.
    """
    from ...data.references import load_references
    from ...models import load_model
    from ...models.find_model import find_model

    model = load_model(find_model(pair, None, Path()).spec.model_copy(update={"device": str(pick_device(device))}))
    references = load_references(pair)
    parts = {"training": references.training, "held_out": references.held_out}
    parts = {name: part for name, part in parts.items() if len(part)}
    count = min(map(len, parts.values()))
    settings = OdeSettings(steps=steps, trace="hutchinson", probes=1)
    found: dict[str, Any] = {"pair": pair.name, "epsilon": epsilon, "images": count}
    for name, part in parts.items():
        points = model.encode(part.floats()[:count])
        found[name] = _plain(memorization_divergence(model, points, epsilon, settings, draws=draws, seed=seed))
    return found


def pair_as_text(found: Mapping[str, Any]) -> str:
    """Return what `divergence_of_pair` found as a table."""
    from tabulate import tabulate

    rows = [
        [name.replace("_", "-"), _number(row["estimate"], 1), _span(row["interval"]), f"{row['solver_change']:.2g}"]
        for name, row in ((name, found[name]) for name in ("training", "held_out") if name in found)
    ]
    head = (
        f"memorization divergence of {found['pair']} in nats, eps = {found['epsilon']:g}, "
        f"{found['images']} images a side; smaller on training than on held-out images: memorised"
    )
    names = ["images", "M", "95 % interval", "steps halved"]
    return head + "\n" + tabulate(rows, headers=names, tablefmt="simple", disable_numparse=True)


def _plain(row: Divergence | Theorem) -> dict[str, Any]:
    return {**row._asdict(), "interval": list(row.interval)}


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [_number(row["gap"]), _span(row["interval"]), _number(row["limit"]), _number(row["limit_error"])]


def _span(interval: Sequence[float]) -> str:
    return f"{_number(interval[0])} .. {_number(interval[1])}"


def _number(value: float, digits: int = 3) -> str:
    """Return a rounded number, never a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
