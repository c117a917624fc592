"""Django's ENGINE for PostgreSQL, pooled."""
