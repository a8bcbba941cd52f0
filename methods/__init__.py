"""The attacks, one file each; `defences/` holds the defences. They are found by entry point, never imported by name.

`side`, `side_walk`, `side_modes`, `carlini_uncond`, `carlini_cond`, `polish`, `prompt_replay` are attacks;
`surrogate` (labels and training), `features` and `networks` are shared by the guided ones. May import the words,
`sampling`, `data.pixels` and `models.flops`, and nothing that leads to a reference image.

    >>> from sidebench.benchmark.registry import find, names
    >>> "side" in names("attack")
    True
    >>> find("attack", "side").access
    'white box'
"""
