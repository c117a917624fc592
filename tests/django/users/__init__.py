"""A user's project with a test suite of its own, which knows nothing of the pool."""
