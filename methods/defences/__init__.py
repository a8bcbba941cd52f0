"""The defences that act at sampling time, one file each: entry points of the group `sidebench.defences`.

>>> from sidebench.benchmark.registry import find
>>> find("defence", "eta").level
'loop'
"""
