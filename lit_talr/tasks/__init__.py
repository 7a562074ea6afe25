"""Benchmarks of lm-evaluation-harness: task files that read local data, and what runs them."""
