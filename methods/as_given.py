"""as-given: images that exist already, looked at as an attack's candidates are."""

from typing import ClassVar

from ..benchmark.candidates import Candidates
from ..benchmark.contracts import Access, Attack, AttackState, BlackBoxModel, Generated


class AsGiven(Attack):
    """Take image i of a folder, table or array for candidate i: what `sidebench score-images` runs.

    How the images were drawn, and whether some were left out, is for whoever made them to say: intervals take them
    for independent draws of one model. Nothing is called, so there is no cost.
    """

    name: ClassVar[str] = "as-given"
    title: ClassVar[str] = "images as given"
    paper: ClassVar[str] = "none: no attack of its own"
    access: ClassVar[Access] = "samples"

    def generate(self, model: BlackBoxModel, state: AttackState, candidates: Candidates) -> Generated:
        """Return the images of these numbers."""
        return Generated(model.sample(candidates))
