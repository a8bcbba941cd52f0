"""How alike two images are, and what counts as a copy: images -> descriptors -> distances -> scores.

One file per measure (`nl2`, `rms`, `zncc`, `tile_l2`, `sscd`, `dinov2`, `clip`); `hits` decides when a score is a hit,
`ams_ums` counts them, `metrics` offers the counts as torchmetrics classes, `scorer` searches. The checks of the setup
stand here too: `detector_audit`, `control_check` (both once per pair: `pair_checks`), `image_quality`, `frechet`,
`set_level_copying`, `theory/`. May import words, stats, data, models and sampling.

    >>> import torch
    >>> from sidebench.benchmark.registry import make_measure
    >>> rms = make_measure("rms")
    >>> rms.descriptors(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 64])
"""
