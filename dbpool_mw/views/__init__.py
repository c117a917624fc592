"""Views for programs and operators. They need no database: see ``dbpool_mw.urls``."""
