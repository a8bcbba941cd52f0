"""What a reader sees of finished runs: tables, verdicts in words, plots, the report's page, runs compared.

`tables` and `verdict` make text, `page` writes the HTML report from `page_data`, `figures` draws in the style of
`plot_style`, `compare/` holds runs against each other, `label_sheet` asks a person. Reads run folders only; it may
import every room to its left, and nothing that makes a run imports it.

    from sidebench import read_run, write_report

    write_report(read_run("runs/digits-1024-4bef4f58"))
"""
