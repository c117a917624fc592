"""Each mode of RESET on a real server."""

from __future__ import annotations

import pytest
from django.http import HttpResponse
from django.test import override_settings

from tests.documents import ROOT
from tests.postgres.conftest import ask, stats


def sets_user(request):
    ask("SET app.user_id = '7'")
    return HttpResponse()


def tells_user(request):
    return HttpResponse(ask("SELECT current_setting('app.user_id', true)") or "")


@pytest.mark.parametrize(
    ("mode", "found"), [("auto", b""), ("always", b""), ("never", b"7")]
)
def test_each_mode_does_what_it_says(requests, mode, found):
    with override_settings(DBPOOL_MW_RESET=mode):
        requests(sets_user)
        assert requests(tells_user).content == found
        assert stats()["opened"] == 1
        assert stats()["resets"] == {"auto": 1, "always": 2, "never": 0}[mode]


def test_the_function_of_the_documentation_does_what_it_says(requests):
    text = (ROOT / "docs" / "settings.rst").read_text()
    lines = text[text.index("        def forget_user") :].splitlines()
    names = {}
    exec("\n".join(line[8:] for line in lines[:4]), names)
    with override_settings(DBPOOL_MW_RESET=names["forget_user"]):
        requests(sets_user)
        assert requests(tells_user).content == b""
        assert stats()["opened"] == 1
