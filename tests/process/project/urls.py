"""A URL for each view, by the view's name."""

from django.urls import include, path

from tests.process.project import views

urlpatterns = [
    path(f"{name}/", getattr(views, name)) for name in views.__all__ if name != "broken"
]
urlpatterns.append(path("pool/", include("dbpool_mw.urls")))
handler404 = views.not_found
handler500 = views.broken
