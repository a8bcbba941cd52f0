"""The release gate: does a model leak more than a policy allows? A decision that a CI job can rest on.

`policy` reads limits, `judge` is the entry (`gate_pair`, `gate_run`), `attack_stages` takes an attack through its
looks, `claims` and `sequential` hold the statistics, `checks` names what cannot pass, `text`, `page` and `write_files`
say what was found, `pytest_plugin` is the same as a fixture. May import every room; no room imports it.

    >>> import numpy as np
    >>> from sidebench.benchmark.gate.sequential import bounds, count
    >>> found = bounds(count(np.zeros(1000)), alpha=0.05, beta=0.05)  # 1,000 candidates without a hit
    >>> round(found.high, 4)
    0.0043
"""
