"""The harness: models, references, sampling, measures, statistics, runs. Knows no particular attack."""
