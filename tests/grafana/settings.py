"""The sandbox's settings, with a pool for each fault: see FAULTS in test_scraped."""

from sandbox.project.settings import *  # noqa: F403
from sandbox.project.settings import DATABASES

ROOT_URLCONF = "tests.grafana.urls"

# A request of a fault has a connection of that fault's pool only.
DBPOOL_MW_EAGER = ()

# No test lasts for 600 seconds.
DBPOOL_MW_POOLS = {
    "full": {"MAX_CONNS": 1},
    "queued": {"MAX_CONNS": 1, "TIMEOUT": 600},
    "late": {"MAX_CONNS": 1, "TIMEOUT": 0.5},
    "leaky": {"LEAK_AFTER": 1},
    "overdue": {"MAX_HOLD": 1},
    "ended": {},
    "lost": {},
    "paused": {},
    "draining": {},
    "unreachable": {},
}
for _alias in DBPOOL_MW_POOLS:
    _options = {**DATABASES["default"]["OPTIONS"], "application_name": _alias}
    DATABASES[_alias] = {**DATABASES["default"], "OPTIONS": _options}
# Nothing listens there.
DATABASES["unreachable"]["PORT"] = "1"
