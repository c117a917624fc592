"""Measure this project beside other pools: ``python -m sandbox.compare``."""
