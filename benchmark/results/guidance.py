"""Does the classifier that guides an attack know anything? Read from the JSON of the attack's stored state.

Any attack may say so in its state: `by_timestep`, rows with `accuracy` on images that its classifier was not trained
on, and `checked_on`, with the number of those `images` and the `chance` to be right by always naming one label.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..files import read_info
from .run_folder import RunFolder

SIGNIFICANT = 0.05
"""p below which a classifier is better than chance at one of its timesteps, corrected for looking at all of them."""


class Checked(NamedTuple):
    """How a classifier did on images that it was not trained on."""

    accuracies: Sequence[float]
    """By timestep."""
    images: int
    chance: float


def read_check(folder: RunFolder, unit: str) -> Checked | None:
    """Return how a unit's classifier did; None where its state does not say, or says no such thing."""
    info = read_info(folder.state_file(unit)).get("state")
    if not isinstance(info, dict) or not isinstance(info.get("checked_on"), dict):
        return None
    rows, on = info.get("by_timestep"), info["checked_on"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    accuracies, images, chance = [row.get("accuracy") for row in rows], on.get("images"), on.get("chance")
    if not all(_is_share(value) for value in [*accuracies, chance]) or type(images) is not int or images < 1:
        return None
    return Checked([float(value) for value in accuracies], images, float(chance))


def guided_by_chance(checked: Checked) -> str | None:
    """Say so where a classifier is at no timestep better than chance.

    By an exact binomial test at each timestep, corrected after Bonferroni.

    >>> guided_by_chance(Checked([0.9, 0.3], 100, 0.3)) is None
    True
    """
    from scipy.stats import binom

    best, images = max(checked.accuracies), checked.images
    p = float(binom.sf(round(best * images) - 1, images, checked.chance))
    if len(checked.accuracies) * p < SIGNIFICANT:
        return None
    return (
        f"the classifier that guides is no better than chance on {images} synthetic images that it was not trained on: "
        f"right on {100 * best:.0f} % at best, and {100 * checked.chance:.0f} % have one label"
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
