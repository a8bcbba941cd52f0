"""Results of record, and the tables and pages made from them alone.

`make_records` writes a record from a run, `read_records` and `check` read and check records, `challenge` makes
candidates again, `ranking` and `rank_tests` say what may be ranked and how, `tables` and `site` show it, `publish`
sends it. Records of detectors are a track of their own: `make_detection`, `detection_record`, `check_detection`,
`detection_boards`. May import every room of `benchmark/`.

    >>> import numpy as np
    >>> from sidebench.leaderboards.record import pack, unpack
    >>> unpack(pack(np.array([True, False, True])), 3, "hits")
    array([ True, False,  True])
"""
