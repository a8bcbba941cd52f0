"""diffusers pipelines and closed-form models behind the one `Model` contract."""

from ..contracts import Model, ModelSpec
from ..errors import UnknownName

FAMILIES = ("pixel", "mixture")


def load_model(spec: ModelSpec) -> Model:
    """Build a model from its specification, in this or another process.

    Raises:
        UnknownName: the family is not known.
        BadInput: the files are missing, or the device is not there.
        UnsafeFile: a file is a pickle, or not the pinned one.
    """
    if spec.family == "pixel":
        from .pixel import PixelModel

        return PixelModel(spec)
    if spec.family == "mixture":
        from .analytic import MixtureModel

        return MixtureModel.from_spec(spec)
    raise UnknownName("model family", spec.family, FAMILIES)
