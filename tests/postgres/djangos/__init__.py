"""A project on which Django's own tests run."""
