"""The project's own views alone: no page and no other URL of the package."""

from django.urls import URLPattern

from tests.process.project import urls

urlpatterns = [one for one in urls.urlpatterns if isinstance(one, URLPattern)]
