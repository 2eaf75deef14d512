"""Benchmarks: one file a claim, each with its bar, its baselines and what was measured."""
