"""The ASGI application of the sandbox project."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sandbox.project.settings")

application = get_asgi_application()
