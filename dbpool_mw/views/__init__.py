"""Views of this package: they answer while no connection can be had."""
