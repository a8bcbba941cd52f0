"""The pictures of a run, a tuning and a comparison as matplotlib figures."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..benchmark.errors import BadInput
from ..benchmark.reports.plot_style import styled
from ..benchmark.results.run_folder import RunFolder, unit_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..benchmark.reports.compare.schema import Comparing
    from ..benchmark.reports.page import Picture
    from ..benchmark.results.tuning_curve import Curve


class RunPlots:
    """The pictures of a run's report; the run is read when the first is drawn."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @cached_property
    def _pictures(self) -> "dict[str, Picture]":
        from ..benchmark.reports.page import pictures
        from ..benchmark.reports.page_data import read_contents

        return pictures(read_contents(self._folder))

    def overview(self) -> "Figure":
        """Hit rate of each attack in the closest band, and that of its control, with intervals."""
        return _drawn(self._pictures, "overview")

    def rarefaction(self) -> "Figure":
        """Unique groups of training images found, by number of candidates."""
        return _drawn(self._pictures, "rarefaction")

    def detector(self) -> "Figure":
        """Known copies found, and non-copies called copies, by threshold."""
        return _drawn(self._pictures, "detector")

    def scores(self, attack: str | None = None, seed: int = 0) -> "Figure":
        """Histogram of best-match scores beside that of the control; the first attack by default."""
        return self._of_unit("scores", attack, seed)

    def thresholds(self, attack: str | None = None, seed: int = 0) -> "Figure":
        """AMS and UMS by threshold; the first attack by default."""
        return self._of_unit("thresholds", attack, seed)

    def preparation(self, attack: str, seed: int = 0) -> "Figure":
        """Clusters and classifier of an attack that has them."""
        return self._of_unit("preparation", attack, seed)

    def tuning(self, attack: str) -> "Figure":
        """The curve that the attack's settings come from, where the run was given one."""
        return _drawn(self._pictures, f"tuning-{attack}")

    def _of_unit(self, kind: str, attack: str | None, seed: int) -> "Figure":
        units = [name.removeprefix(f"{kind}-") for name in self._pictures if name.startswith(f"{kind}-")]
        wanted = units[0] if attack is None and units else unit_name(attack or "", seed)
        if wanted not in units:
            asked = f"{attack or 'any attack'} under seed {seed}"
            raise BadInput(
                f"there is no picture of the {kind} of {asked}; there is one of: {', '.join(units) or 'none'}"
            )
        return _drawn(self._pictures, f"{kind}-{wanted}")


class TuningPlots:
    """The picture of a tuning."""

    def __init__(self, curve: "Curve") -> None:
        self._curve = curve

    def curve(self) -> "Figure":
        """Hit rate on training and held-out images by the settings that were tried."""
        from ..benchmark.reports.page import Picture
        from ..benchmark.reports.tuning_plot import draw

        return _drawn({"curve": Picture("", lambda: draw(self._curve))}, "curve")


class ComparisonPlots:
    """The pictures of a comparison; the runs are read when the first is drawn. The first attack by default."""

    def __init__(self, found: "Comparing", folders: Sequence[RunFolder]) -> None:
        self._found, self._folders = found, folders

    @cached_property
    def _pictures(self) -> "dict[str, Picture]":
        from ..benchmark.reports.compare.page import pictures

        return pictures(self._found, self._folders)

    def leak(self, yardstick: int = 0) -> "Figure":
        """Leak of each attack by run, with intervals."""
        return _drawn(self._pictures, f"leak-{yardstick}")

    def quality(self, yardstick: int = 0) -> "Figure":
        """Leak over the Frechet distance of the images."""
        return _drawn(self._pictures, f"quality-{yardstick}")

    def scores(self, attack: int = 0) -> "Figure":
        """Histogram of best-match scores by run."""
        return _drawn(self._pictures, f"scores-{attack}")

    def thresholds(self, attack: int = 0) -> "Figure":
        """Excess by threshold and run."""
        return _drawn(self._pictures, f"thresholds-{attack}")


def _drawn(pictures: "dict[str, Picture]", name: str) -> "Figure":
    """Draw a picture.

    Raises:
        BadInput: there is none of this name.
    """
    # A notebook shows a figure that is the last value of a cell once this is imported.
    import matplotlib.pyplot  # noqa: F401

    if name not in pictures:
        raise BadInput(f"there is no picture {name!r} here; there are: {', '.join(pictures)}")
    with styled():
        return pictures[name].draw()
