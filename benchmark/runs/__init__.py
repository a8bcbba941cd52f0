"""Carry out a run, and everything that is made by running attacks."""
