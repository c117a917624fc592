"""A real Django project with a real PostgreSQL and real load, to try dbpool_mw on."""
