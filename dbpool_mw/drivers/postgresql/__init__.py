"""What the drivers for PostgreSQL have in common."""
