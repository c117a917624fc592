"""A user's project with test suites of its own."""
