"""Build the distribution django-dbpool-mw, which pyproject.toml describes."""

from setuptools import setup

setup()
