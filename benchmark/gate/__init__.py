"""The release gate: a policy, sequential tests, checks that nothing broken passes, and what it says."""
