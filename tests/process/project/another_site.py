"""The URLs of a project that has an admin site of its own."""

from django.contrib.admin import AdminSite
from django.urls import path

from tests.documents import code_block
from tests.process.project import dashboard

site = AdminSite("staff")
exec(code_block("docs/dashboard.rst", "# admin.py"), {"site": site})
urlpatterns = [*dashboard.urlpatterns, path("staff/", site.urls)]
