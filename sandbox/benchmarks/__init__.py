"""Measure what a pooled request costs: ``python -m sandbox.benchmarks``."""
