"""Drivers: what is done to one physical connection."""
