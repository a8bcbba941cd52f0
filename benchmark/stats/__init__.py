"""Intervals, thresholds and tests: pure functions of counts, no torch."""
