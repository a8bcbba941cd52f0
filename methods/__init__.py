"""The attacks, one file each, and what they share: `surrogate` (labels and training) and `networks`."""
