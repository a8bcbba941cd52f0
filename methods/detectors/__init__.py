"""The detectors of memorised prompts, one file each: entry points of the group `sidebench.detectors`.

>>> from sidebench.benchmark.registry import find
>>> find("detector", "noise-norm").title
'norm of the text-conditional noise'
"""
