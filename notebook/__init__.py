"""What the command does, as functions for a notebook: `sidebench.run("digits")` and its siblings.

`commands` are the functions, `results` what they return, `plots` its figures. May import every room; no room imports
it, and neither does `cli`.

    import sidebench

    result = sidebench.run("digits", attacks=["carlini-uncond"], candidates=256)
    print(result.verdict)
    result.table()
"""
