"""The ids of the system checks, and the messages that carry them."""

from __future__ import annotations

from django.core import checks
from django.core.checks import CheckMessage

from dbpool_mw.core import docs

#: The id of each kind of problem: E is an error, W a warning, I information. The first
#: eight keys, "eager" and "token" are the codes of ``dbpool_mw.core.config.Problem``,
#: "twice" is one of ``dbpool_mw.conf``. An id must never change its meaning, because
#: projects silence it.
IDS = {
    "unknown": "dbpool_mw.E001",
    "type": "dbpool_mw.E002",
    "range": "dbpool_mw.E003",
    "order": "dbpool_mw.E004",
    "pools": "dbpool_mw.E005",
    "exempt": "dbpool_mw.E006",
    "view": "dbpool_mw.E007",
    "control_dir": "dbpool_mw.E008",
    "alias": "dbpool_mw.E009",
    "engine": "dbpool_mw.E010",
    "no_library": "dbpool_mw.E011",
    "no_driver_for_library": "dbpool_mw.E012",
    "native_pool": "dbpool_mw.E013",
    "conn_max_age": "dbpool_mw.E014",
    "twice": "dbpool_mw.E015",
    "other_pool_engine": "dbpool_mw.E016",
    "other_pool_option": "dbpool_mw.E017",
    "no_app": "dbpool_mw.E018",
    "middleware_twice": "dbpool_mw.E019",
    "platform": "dbpool_mw.E020",
    "eager": "dbpool_mw.E021",
    "eager_alias": "dbpool_mw.E022",
    "token": "dbpool_mw.E023",
    "no_middleware": "dbpool_mw.W001",
    "not_first": "dbpool_mw.W002",
    "no_alias": "dbpool_mw.W003",
    "capacity": "dbpool_mw.W004",
    "other_pool_setting": "dbpool_mw.W005",
    "persistent_engine": "dbpool_mw.W006",
    "urls": "dbpool_mw.W007",
    "proxy": "dbpool_mw.I001",
}

_CLASSES = {"E": checks.Error, "W": checks.Warning, "I": checks.Info}


def message(code: str, text: str, hint: str) -> CheckMessage:
    """Return the system check message for ``code``, which is a key of IDS.

    A hint that names no document gets the check's row in the table of all checks.
    """
    check_id = IDS[code]
    number = check_id.split(".")[1]
    if docs.SITE not in hint:
        hint = f"{hint} {docs.see('settings', number.lower())}"
    return _CLASSES[number[0]](text, hint=hint, id=check_id)
