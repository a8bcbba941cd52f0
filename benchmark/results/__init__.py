"""What a run holds, and every rate made from it. No torch.

`run_folder` opens a run (`read_run`), `score_files` and `checkpoints` are its files, `unit_scores` and `rates` turn
stored scores into rates, `costs` into prices, `schema` declares every key of metrics.json, `rescore` answers for other
bands. May import words, stats, data, models, sampling and measures.

    >>> from sidebench.benchmark.results.rescore import parse_bands
    >>> parse_bands("near=0:0.4")
    [Band(name='near', low=0.0, high=0.4)]

On a finished run:

    from sidebench import read_run, rescore

    folder = read_run("runs/digits-1024-4bef4f58")
    for result in rescore(folder, parse_bands("near=0:0.4,far=0.4:0.8")):
        print(result.attack, result.bands[0].training.ams.value)
"""
