"""Celery tasks on pooled connections."""
