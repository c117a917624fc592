"""Cancel one holder from the page: that hold, and no other."""

from __future__ import annotations

import platform
import re
import threading

import pytest

from tests.dashboards import Visitor
from tests.process.servers import wait_until
from tests.process.test_dashboard import ALONE, PLACES, logged, server, site

__all__ = ["server", "site"]
KEY = 4713


@pytest.mark.parametrize("place", PLACES)
def test_the_hold_that_was_shown_is_cancelled_and_no_other(site, server, place):
    answers = {}
    with site.lock(KEY), site.lock(KEY + 1):

        def hold(key):
            answers[key] = server.get(f"/holds/?key={key}").status

        slow = [threading.Thread(target=hold, args=[KEY + n]) for n in (0, 1)]
        for thread in slow:
            thread.start()
        for n in (0, 1):
            site.wait_for_lock(KEY + n)
        visitor = Visitor(server, "operator")
        page = visitor.get(place).body.decode()
        holds = re.findall(r'act/cancel/\?hold=([^"&]+)', page)
        assert len(holds) == 2
        shown = visitor.get(f"{place}act/cancel/?hold={holds[0]}").body.decode()
        assert "GET /holds/" in shown
        assert "No other request is touched" in shown
        done = visitor.confirm(f"{place}act/cancel/?hold={holds[0]}")
        assert done.status == 302, done.body
        wait_until(lambda: len(answers) == 1, "one request has ended")
        assert list(answers.values()) == [500]
        page = visitor.get(done.headers["Location"]).body.decode()
        assert "the request has ended" in page
        assert holds[1] in page
        user, what, said = logged(site)[-1]
        where = f"hold {holds[0]} on {platform.node()}"
        assert (user, what) == ("operator", f"Cancel: {where}")
        assert said.startswith("Cancel: GET /holds/ of worker ")
        # Its id is nobody's now.
        again = visitor.get(f"{place}act/cancel/?hold={holds[0]}")
        assert "This request has ended" in again.body.decode()
        assert len(answers) == 1
    for thread in slow:
        thread.join(20)
    assert sorted(answers.values()) == [200, 500]


def test_who_may_not_cancel_sees_no_button_and_gets_403(site, server):
    with site.lock(KEY):
        slow = threading.Thread(target=server.get, args=[f"/holds/?key={KEY}"])
        slow.start()
        site.wait_for_lock(KEY)
        operator, watcher = (Visitor(server, n) for n in ("operator", "watcher"))
        page = operator.get(ALONE).body.decode()
        path = re.findall(r'href="([^"]*act/cancel/[^"]*)"', page)[0]
        assert "act/cancel" not in watcher.get(ALONE).body.decode()
        assert watcher.get(path).status == 403
        token = operator.get(path).body.decode()
        secret = re.search(r'csrfmiddlewaretoken" value="([^"]+)', token)
        assert secret is not None
        watcher.cookies["csrftoken"] = operator.cookies["csrftoken"]
        hold = path.partition("hold=")[2]
        fields = {"hold": hold, "csrfmiddlewaretoken": secret[1]}
        assert watcher.post(f"{ALONE}act/cancel/", **fields).status == 403
        assert site.in_use() == 1
    slow.join(20)


@pytest.mark.parametrize("place", PLACES)
def test_who_may_cancel_and_not_see_holders_is_shown_none(site, server, place):
    with site.lock(KEY):
        slow = threading.Thread(target=server.get, args=[f"/holds/?key={KEY}"])
        slow.start()
        site.wait_for_lock(KEY)
        page = Visitor(server, "operator").get(place).body.decode()
        path = re.findall(r'href="([^"]*act/cancel/[^"]*)"', page)[0]
        visitor = Visitor(server, "canceller")
        shown = visitor.get(path).body.decode()
        assert "What will happen" in shown
        assert "/holds/" not in shown
        assert "pg_advisory" not in shown
        assert visitor.confirm(path).status == 302
    slow.join(20)
