"""A connection pool that knows nothing of Django."""
