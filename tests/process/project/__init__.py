"""A Django project whose views use their connection in every way that a view may."""
