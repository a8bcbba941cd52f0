"""The harness: words that every room shares, and nine rooms on one staircase. It knows no attack by name.

    words < stats, data < models < sampling < measures < results < reports < runs < gate

An import may only point to the left; a test holds it. The words are the modules of this folder: `contracts` (Model,
Attack, Defence, Measure), `candidates`, `protocol`, `registry`, `errors`, `files`, `progress`, `environment`. Each
room's docstring says what lives there. What a user needs is imported from `sidebench` itself.

    >>> from sidebench.benchmark.candidates import Candidates
    >>> first = Candidates(seed=0, numbers=range(4)).normal("noise", (2,))
    >>> alone = Candidates(seed=0, numbers=[3]).normal("noise", (2,))
    >>> bool((first[3] == alone[0]).all())  # candidate 3 is the same wherever it is made
    True
"""
