"""A project whose views do to their connection whatever a view may do."""
