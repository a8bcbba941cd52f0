"""Images that exist already in the place of a model: candidate i is image i, and nothing else can be asked."""

from typing import NoReturn

import torch
from torch import Tensor

from ..candidates import Candidates
from ..contracts import Conditioning, Model, ModelSpec
from ..data.given_images import load_given
from ..errors import BadInput
from .analytic import SCHEDULE


class GivenImages(Model):
    """Images of somebody's own, whose making sidebench did not see.

    `draw` returns them by number, whatever the seed. There is no denoiser: each attempt to call it is refused.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Open the images.

        Raises:
            BadInput: they cannot be read, or are not the pinned ones.
        """
        images, found = load_given(spec.location, spec.form)
        if spec.sha256.get("images", found) != found:
            raise BadInput(f"{spec.location}: these are not the pinned images (SHA-256 {found[:16]}...)")
        self.images = images
        self.spec = spec.model_copy(update={"sha256": {"images": found}})
        self.device = torch.device("cpu")
        channels, height, width = images.shape[1:]
        self.sample_shape = self.image_shape = (channels, height, width)
        self.conditioning: Conditioning = "none"
        self.prediction_type = "sample"
        self.scheduler_config = dict(SCHEDULE)
        self.num_train_timesteps = int(SCHEDULE["num_train_timesteps"])

    def draw(self, candidates: Candidates) -> Tensor:
        """Return the images of these numbers, float32 in [0, 1]."""
        if candidates.purpose != "candidate":
            self._refuse()
        return torch.from_numpy(self.images[list(candidates.numbers)]).float() / 255

    def noise_level(self, t: Tensor) -> NoReturn:
        """Refuse: nothing is known of how the images were made."""
        self._refuse()

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> NoReturn:
        """Refuse: there is no denoiser."""
        self._refuse()

    def encode(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        """Return the images."""
        return x_0

    def flops_per_sample(self) -> int:
        """Return 0: no call is made."""
        return 0

    def _refuse(self) -> NoReturn:
        raise BadInput("these are images that exist already: there is no model to sample or to call")
