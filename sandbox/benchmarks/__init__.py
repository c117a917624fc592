"""What a pooled request costs, measured: ``python -m sandbox.benchmarks``."""
