"""The URLs of a project that shows the page of the pools in the admin only."""

from tests.process.project import dashboard

urlpatterns = [p for p in dashboard.urlpatterns if str(p.pattern) != "dbpool/"]
