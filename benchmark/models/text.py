"""What text-to-image models share: encoders and tokenizers, and a prompt's embeddings as one tensor.

A condition is one tensor with a row for each prompt, whatever the number of encoders. So the parts of an embedding
(hidden states, pooled states, attention masks, a scale of guidance) are laid side by side in a row of numbers, which
the harness, attacks and defences pass on as it is; the model that made the row takes it apart.
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..contracts import NO_STATE, WHOLE, Attended, Conditioning, Model, ModelSpec
from ..data import pipeline_folder
from ..data.text_pipelines import TEXT_PIPELINES
from ..errors import BadInput
from .attention import check_attention, recorded, reweighted
from .latent import LatentModel
from .load_network import from_transformers, import_transformers
from .schedule import StraightPath

GUIDANCE = "guidance"
"""The part of an embedding that holds the scale of guidance, where a denoiser takes it as an input; the last part."""


def packed(parts: Mapping[str, Tensor]) -> Tensor:
    """Lay the parts of an embedding side by side, N x (all their numbers) in float32; a single part stays as it is."""
    if len(parts) == 1:
        return next(iter(parts.values())).float()
    return torch.cat([part.flatten(1).float() for part in parts.values()], dim=1)


def unpacked(rows: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Take apart what `packed` made, given the shape of each part without its first axis."""
    if len(shapes) == 1:
        return dict.fromkeys(shapes, rows)
    pieces = rows.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


class TextModel(LatentModel):
    """The denoiser takes a prompt embedding per row, or None for its unconditional branch, the empty prompt.

    A subclass says what parts an embedding has (`encoded`) and how the denoiser is called with them (`denoised`).
    The safety checker is not loaded: it replaces images by black ones, and what it would have hidden is what an
    audit looks for. The manifest says so.
    """

    text_encoder: Any = None
    text_encoder_2: Any = None
    text_encoder_3: Any = None

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.conditioning: Conditioning = "text"
        self.num_classes = 0
        self.tokenizers: dict[str, Any] = {}
        self.begin: float | None = None
        """Where attention is re-weighted, the factor on the logit of the token that begins a prompt."""
        for encoder, tokenizer in TEXT_PIPELINES[self.pipeline].encoders().items():
            if encoder in self.parts:
                setattr(self, encoder, self._load_encoder(encoder))
                self.tokenizers[encoder] = self._load_tokenizer(tokenizer)
                self.adaptable = {**self.adaptable, encoder: encoder}

    def load_denoiser(self) -> Any:
        """Load the denoiser by the class that model_index.json names."""
        import diffusers

        name = "transformer" if "transformer" in self.parts else "unet"
        return self.network(getattr(diffusers, self.parts[name][1]), name)

    @abstractmethod
    def encoded(self, prompt: str) -> dict[str, Tensor]:
        """Return the parts of a prompt's embedding, each with a first axis of length 1, always of the same shapes."""

    def unconditional(self) -> dict[str, Tensor]:
        """Return the parts of the embedding that stands for no prompt."""
        return self.encoded("")

    @abstractmethod
    def denoised(self, x: Tensor, time: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Call the denoiser with x in its own dtype and the parts of embeddings, float32, a row for each of x."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Call the denoiser; x_t and the answer are float32 whatever the network's dtype."""
        parts, tokens = self._taken_apart(condition, len(x_t))
        if tokens is None or self.begin is None or condition is None:
            return self._called(x_t, t, parts)
        with reweighted(self.denoiser, tokens, self.begin):
            return self._called(x_t, t, parts)

    def _called(self, x_t: Tensor, t: Tensor, parts: dict[str, Tensor]) -> Tensor:
        output = self.denoised(*self.as_trained(x_t, t), parts)
        return output[:, : self.sample_shape[0]].float()  # what follows is a variance that was learned

    def reweighted(self, begin: float) -> Model:
        """Return a copy whose conditional calls hide the padding, and multiply the logit of the first token.

        Raises:
            BadInput: the denoiser is no UNet with cross-attention.
        """
        check_attention(self.denoiser, self.pipeline)
        again = copy.copy(self)
        again.begin = begin
        for kept in ("_empty", "_shapes"):
            again.__dict__.pop(kept, None)
        return again

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the embedding of each prompt, a row each, float32; prompts are cut to the encoders' lengths."""
        # One at a time: the result must not depend on which prompts go together.
        return torch.cat([packed(self._counted(prompt, self.encoded(prompt))) for prompt in prompts])

    def _counted(self, prompt: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put how many tokens a prompt is behind its states, as one more, where the denoiser has to know it."""
        if self.begin is None:
            return parts
        count = torch.full_like(parts["prompt"][:, :1], int(self.prompt_tokens([prompt])))
        return {**parts, "prompt": torch.cat([parts["prompt"], count], dim=1)}

    def token_of(self) -> Tensor:
        """Return of which token each number of an embedding is a state."""
        found = {name: torch.full(shape, NO_STATE) for name, shape in self._shapes.items()}
        states = torch.arange(len(found["prompt"])).view(-1, 1)
        found["prompt"] = states.expand_as(found["prompt"]).clone()
        if self.begin is not None:
            found["prompt"][-1] = NO_STATE
        if "pooled" in found:
            found["pooled"].fill_(WHOLE)
        return packed({name: part.unsqueeze(0) for name, part in found.items()})[0].long().to(self.device)

    def with_tokens(self, condition: Tensor, least: int) -> Tensor:
        """Return embeddings that count as of at least so many tokens, where attention is re-weighted."""
        if self.begin is None:
            return condition
        parts = {name: part.clone() for name, part in unpacked(condition, self._shapes).items()}
        parts["prompt"][:, -1].clamp_(min=least)
        return packed(parts)

    def _taken_apart(self, condition: Tensor | None, count: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the parts of embeddings, of so many empty prompts without any, and how many tokens a prompt is.

        The number, (N,), only where embeddings say it.
        """
        rows = self._empty.expand(count, *self._empty.shape[1:]) if condition is None else condition
        parts = unpacked(rows, self._shapes)
        if self.begin is None:
            return parts, None
        return {**parts, "prompt": parts["prompt"][:, :-1]}, parts["prompt"][:, -1, 0]

    def prompt_tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return how many tokens the first encoder makes of each prompt, as far as it reads, begin and end included.

        Raises:
            BadInput: the denoiser is no UNet with cross-attention.
        """
        check_attention(self.denoiser, self.pipeline)
        name = next(iter(self.tokenizers))
        lengths = [len(self.tokenizers[name](prompt, verbose=False).input_ids) for prompt in prompts]
        return torch.tensor(lengths).clamp(max=self._most_tokens(name))

    def attend(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Attended:
        """Call the denoiser and return its cross-attention, the mean over heads by layer.

        Raises:
            BadInput: the denoiser is no UNet with cross-attention.
        """
        check_attention(self.denoiser, self.pipeline)
        with recorded(self.denoiser) as maps:
            return Attended(self._called(x_t, t, self._taken_apart(condition, len(x_t))[0]), maps)

    def too_long(self, prompts: Sequence[str]) -> Sequence[str]:
        """Return the prompts that no encoder takes whole."""
        return [prompt for prompt in prompts if not any(self._takes_whole(name, prompt) for name in self.tokenizers)]

    def _takes_whole(self, encoder: str, prompt: str) -> bool:
        return len(self.tokenizers[encoder](prompt, verbose=False).input_ids) <= self._most_tokens(encoder)

    def _most_tokens(self, encoder: str) -> int:
        tokenizer = self.tokenizers[encoder]
        most = getattr(getattr(self, encoder).config, "max_position_embeddings", tokenizer.model_max_length)
        return int(min(tokenizer.model_max_length, most))

    def guided(self, condition: Tensor, scale: float) -> Tensor | None:
        """Return the condition with another scale of guidance, where the denoiser takes it as an input."""
        if GUIDANCE not in self._shapes:
            return None
        changed = condition.clone()
        changed[:, -1] = scale
        return changed

    def timesteps(self, steps: int) -> Tensor | None:
        """Return the timesteps of a flow's own pipeline; other noise schedules leave them to the sampler."""
        if not isinstance(self.schedule, StraightPath):
            return None
        return self.schedule.own_timesteps(steps, self.levels(steps)).to(self.device)

    def levels(self, steps: int) -> list[float] | None:
        """Return the noise levels that a flow's own pipeline hands to its scheduler; None: it hands it none."""
        return None

    def tokens_of(self, encoder: str, prompt: str, length: int | None = None) -> Any:
        """Return `input_ids` and `attention_mask` (1 x length) of a prompt, padded and cut to the encoder's length."""
        tokenizer = self.tokenizers[encoder]
        length = self._most_tokens(encoder) if length is None else length
        asked = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return tokenizer([prompt], **asked).to(self.device)

    @cached_property
    @torch.no_grad()
    def _empty(self) -> Tensor:
        return packed(self._counted("", self.unconditional()))

    @cached_property
    @torch.no_grad()
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        parts = self._counted("", self.unconditional())
        return {name: tuple(part.shape[1:]) for name, part in parts.items()}

    def _load_encoder(self, name: str) -> Any:
        place, owner = pipeline_folder.component(self.folder, name), f"{self.owner}/{name}"
        found = from_transformers(
            self.parts[name][1], place, owner, self.dtype, self.spec.allow_pickle, variant=self.variant(place)
        )
        return found.to(self.device)

    def _load_tokenizer(self, name: str) -> Any:
        cls, place = getattr(import_transformers(self.owner), self.parts[name][1]), self.folder / name
        owner = f"{self.owner}/{name}"
        if not (place / "tokenizer.json").exists() and any(place.glob("*.model")) and not _reads_sentencepiece():
            raise BadInput(f"{owner} has no tokenizer.json, only a .model: pip install sentencepiece protobuf")
        try:
            return cls.from_pretrained(place, local_files_only=True)
        except Exception as error:  # whatever transformers finds wrong with the files, they are the user's
            raise BadInput(f"{owner} cannot be loaded: {' '.join(str(error).split())}") from error


def _reads_sentencepiece() -> bool:
    return bool(find_spec("sentencepiece") and find_spec("google") and find_spec("google.protobuf"))
