"""The Django project that every subject of the comparison serves."""
