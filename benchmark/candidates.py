"""Named random streams: what makes candidate i the same image in any grouping, order or process.

Every draw belongs to (run seed, purpose, number, stream name) and to nothing else, so it does not
matter which batch, worker or resumed process makes it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, number: int, stream: str) -> int:
    """Return the 63-bit seed of one named stream (BLAKE2b of its name).

    Args:
        seed: The run's seed.
        purpose: What is drawn for, such as "candidate", "synthetic" or the name of a training.
        number: Which one of that purpose: a candidate's number, a training step.
        stream: What is drawn, such as "noise".

    Examples:
        The same on every machine; results of old runs rest on these numbers.

        >>> stream_seed(0, "candidate", 3, "noise")
        8717091650209008457
    """
    # A hash of the name, and not `hash()`, which differs from process to process. 63 bits fit every signed integer that
    # a generator takes.
    name = f"{seed}/{purpose}/{number}/{stream}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, number: int, stream: str) -> "torch.Generator":
    """Return a fresh CPU generator for one named stream."""
    import torch

    # On the CPU whatever the model's device: a GPU's generator draws other numbers from the same seed.
    return torch.Generator().manual_seed(stream_seed(seed, purpose, number, stream))


@dataclass(frozen=True)
class Candidates:
    """Which images to make: one run seed and a sequence of candidate numbers.

    `purpose` keeps the images that are scored ("candidate") apart from those that an attack makes
    for its own use, such as SIDE's synthetic set ("synthetic"): the same number under another purpose
    is another image.

    Examples:
        Candidate 4 draws the same, alone or among others, and another number for another purpose.

        >>> several = Candidates(seed=0, numbers=range(5)).integers("cluster", 10)
        >>> alone = Candidates(seed=0, numbers=[4]).integers("cluster", 10)
        >>> other = Candidates(seed=0, numbers=[4], purpose="synthetic").integers("cluster", 10)
        >>> int(several[4]), int(alone[0]), int(other[0])
        (1, 1, 8)
    """

    seed: int
    numbers: Sequence[int]
    purpose: str = "candidate"

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(self, size: int) -> Iterator["Candidates"]:
        """Yield consecutive groups of at most `size` candidates.

        Examples:
            >>> [list(batch.numbers) for batch in Candidates(0, range(5)).batches(2)]
            [[0, 1], [2, 3], [4]]
        """
        for start in range(0, len(self), size):
            yield Candidates(self.seed, self.numbers[start : start + size], self.purpose)

    def padded(self, size: int) -> "Candidates":
        """Return these candidates followed by repeats of the first one, `size` in all.

        Examples:
            >>> list(Candidates(0, [7, 8]).padded(4).numbers)
            [7, 8, 7, 7]
        """
        missing = size - len(self)
        return Candidates(self.seed, [*self.numbers, *[self.numbers[0]] * missing], self.purpose)

    def generators(self, stream: str) -> list["torch.Generator"]:
        """Return one generator per candidate for the stream of this name."""
        return [generator(self.seed, self.purpose, number, stream) for number in self.numbers]

    def normal(self, stream: str, shape: tuple[int, ...]) -> "torch.Tensor":
        """Draw standard normal numbers, `(len(self), *shape)` float32 on the CPU."""
        import torch

        # A generator each. With one for the batch, image i would depend on the images before it (docs/traps.md).
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators(stream)])

    def integers(self, stream: str, high: int) -> "torch.Tensor":
        """Draw one integer of 0 .. high - 1 per candidate, `(len(self),)` int64 on the CPU."""
        import torch

        return torch.cat([torch.randint(high, (1,), generator=g) for g in self.generators(stream)])
