"""Django's ENGINE for PostGIS, pooled."""
