"""A small shop: the application whose requests run on pooled connections."""
