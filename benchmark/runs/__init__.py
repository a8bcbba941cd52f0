"""Everything that makes candidates: plan a run, carry it out, tune, ablate, replay, and check plug-ins.

`plan` checks all that can be checked without work, `runner` generates, `score` scores shard by shard, `write_results`
writes metrics.json; `tune`, `ablate`, `replay`, `precision_check` make candidates for other questions;
`check_attack`, `check_defence`, `check_detector`, `check_measure` test a plug-in; `forecast` and `timing` say what a
run will need. May import every room to its left.

    from sidebench import execute, load_pair, plan_run

    plan = plan_run(load_pair("digits"), attacks=["carlini-uncond"], candidates=256)
    result = execute(plan)
    print(result.folder.path, result.metrics.results[0].bands[0].excess)
"""
