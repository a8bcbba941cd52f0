"""What a reader sees of runs: tables, verdicts, plots, the report's page and the comparison of runs."""
