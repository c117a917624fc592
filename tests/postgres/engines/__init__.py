"""ENGINEs of the tests' own."""
