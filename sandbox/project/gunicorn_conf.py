"""gunicorn's settings for the sandbox.

``gunicorn --config python:sandbox.project.gunicorn_conf``
"""

from __future__ import annotations

wsgi_app = "sandbox.project.wsgi:application"
bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 4
graceful_timeout = 10
# Newer releases of gunicorn open one control socket in the home directory for all
# servers of a user, but the benchmarks run three servers at once.
control_socket_disable = True
