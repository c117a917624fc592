"""Bind Django's database wrappers to pools."""
