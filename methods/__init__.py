"""The attacks, one file each; `defences/` and `detectors/` hold those. All are found by entry point, never by name.

`side`, `side_walk`, `side_modes`, `side_lora`, `carlini_uncond`, `carlini_cond`, `polish` are attacks, and, on text
models, `side_queries`, `prompt_replay`, `carlini_cliques`, `webster_one_step`, `canary_replay`;
`surrogate` (labels and training), `features` and `networks` are shared by the guided ones. May import the words,
`sampling`, `data.pixels` and `models.flops`, and nothing that leads to a reference image.

    >>> from sidebench.benchmark.registry import find, names
    >>> "side" in names("attack")
    True
    >>> find("attack", "side").access
    'white box'
"""
