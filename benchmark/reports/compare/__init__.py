"""Runs held against each other: what leaks before and after a defence, image quality and time.

from sidebench import compare_runs, read_run
from sidebench.benchmark.reports.compare.schema import as_text

print(as_text(compare_runs([read_run("runs/plain"), read_run("runs/defended")])))
"""
