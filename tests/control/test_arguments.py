from __future__ import annotations

import shlex
import time

import pytest

from dbpool_mw.control.arguments import masked


def shown(line: str) -> str:
    return shlex.join(masked(shlex.split(line))).replace("'***'", "***")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--password=hunter2 --bind :80", "--password=*** --bind :80"),
        ("--password hunter2 --bind :80", "--password *** --bind :80"),
        ("--db-pass hunter2 run", "--db-pass *** run"),
        ("-password hunter2", "-password ***"),
        ("PGPASSWORD=hunter2 run", "PGPASSWORD=*** run"),
        ("--Secret-Key=hunter2", "--Secret-Key=***"),
        ("--api_token=hunter2", "--api_token=***"),
        ("--env DJANGO_SECRET_KEY=hunter2", "--env DJANGO_SECRET_KEY=***"),
        ("--dsn 'hunter2 x'", "--dsn ***"),
        ("--password='hunter2 and=more'", "--password=***"),
        ("--pwd=hunter2", "--pwd=***"),
        ("--basic-auth=me:hunter2", "--basic-auth=***"),
        ("--aws-credentials hunter2", "--aws-credentials ***"),
        ("postgres://shop:hunter2@db/shop", "postgres://shop:***@db/shop"),
        ("postgres://shop:hunt/er2@db/shop", "postgres://shop:***@db/shop"),
        ("postgres://shop:hunt@er2@db/shop", "postgres://shop:***@db/shop"),
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("--broker=amqp://me:hunter2@mq//", "--broker=amqp://me:***@mq//"),
        ("-b amqp://me:hunter2@mq//", "-b amqp://me:***@mq//"),
        ("a://me:hunter2@x,b://me:hunter2@y", "a://me:***@y"),
        ("postgres://db/x?user=a&password=hunter2&x=1", None),
        ("'host=db password=hunter2 user=shop'", None),
        ("'host=db password = hunter2 user=shop'", None),
        ("\"host=db password='hunt \\\\'er2' user=shop\"", None),
        ("'host=db sslpassword=hunter2'", None),
        ('\'{"password": "hunter2", "x": 1}\'', None),
        ('\'{"password":"hunter2", "x": 1}\'', None),
        ("-H 'Authorization: Bearer hunter2'", None),
        ("-H 'X-Token: hunter2'", None),
        ("-H 'Authorization: Digest hunter2 er2'", None),
        ("-H 'Cookie: sessionid=hunter2; er2'", None),
        ("https://hunter2@host/x", "https://***@host/x"),
        ("'postgres://shop:hunt er2@db/shop'", "postgres://shop:***@db/shop"),
        ("--password -hunter2 run", "--password *** run"),
        ("--password:hunter2", "--password:***"),
        ("password:hunter2", "password:***"),
        ("-c '--password hunter2 --x'", "-c --password *** --x"),
        ("'--password hunter2'", "--password ***"),
        ("--user bob:hunter2", "--user bob:***"),
        ("--user=bob:hunter2", "--user=bob:***"),
        ("-u bob:hunter2", "-u bob:***"),
        ("-ubob:hunter2", "-ubob:***"),
        ("--proxy-user bob:hunter2", "--proxy-user bob:***"),
        ("-c 'curl -u bob:hunter2 host'", "-c curl -u bob:*** host"),
        ("https://x/?a=1&sig=hunter2", "https://x/?a=1&sig=***"),
        ("--pw hunter2", "--pw ***"),
        ("--jwt hunter2", "--jwt ***"),
        ("--bearer hunter2", "--bearer ***"),
        ("--salt=hunter2", "--salt=***"),
        ("--session hunter2", "--session ***"),
        ('\'{"pw": "hunter2"}\'', None),
    ],
)
def test_secrets_are_masked(line: str, expected: str | None) -> None:
    assert "hunt" not in shown(line)
    assert "er2" not in shown(line)
    assert "***" in shown(line)
    if expected is not None:
        assert shown(line).replace("'", "") == expected


@pytest.mark.parametrize(
    "line",
    [
        "shop.wsgi:application --bind 0.0.0.0:8000 --workers 4",
        "shop.auth.wsgi:application -k gevent -p /run/pid",
        "shop.tokens:app --keep-alive 5 --timeout=30",
        "-A shop worker -Q mail,default --concurrency=2",
        "runserver 127.0.0.1:8000 --noreload",
        "--proxy http://proxy:3128/ --user me@example.org",
        "ssh://git@host/x --author=me --gevent-monkey-patch x",
        "--password --noinput",
        "--password -b :80",
        "--user www-data --group 1000 -u 1000 --bind unix:/run/x",
        "--design=x --signal 9 --pwn x --basalt x",
        "passenger:app http://host/me@example.org",
        "'host=db user=shop'",
        "",
    ],
)
def test_everything_else_stays_as_it_is(line: str) -> None:
    assert masked(shlex.split(line)) == shlex.split(line)


def test_a_pair_hides_no_more_than_its_value() -> None:
    (text,) = masked(["host=db password='a b' user=shop"])
    assert text == "host=db password=*** user=shop"
    (text,) = masked(["postgres://db/x?password=a&sslmode=require"])
    assert text == "postgres://db/x?password=***&sslmode=require"


@pytest.mark.parametrize(
    ("start", "atom", "end"),
    [
        ("", "a", ""),
        ("", "password", "!"),
        ("--", "password", "=x"),
        ("", "password=", ""),
        ("", "password='", ""),
        ("x ", 'key"', ""),
        ("", "://:", ""),
        ("", "://a:b@", ""),
        ("x key=", " ", ""),
        ("x key", " ", ""),
        ("", "key = ", ""),
        ("x key='", "\\'", ""),
        ("x ", "token: bearer ", ""),
        ("--", "-", ""),
        ("", "--key ", ""),
        ("", "-u a", ""),
        ("-u ", "a", ""),
        ("", "--x-", ""),
        ("", "pw:", ""),
        ("", "token: ", "\n"),
        ("", "://a@", ""),
    ],
)
def test_the_time_is_linear_in_the_length_of_an_argument(
    start: str, atom: str, end: str
) -> None:
    def steps(length: int) -> int:
        """Measure, in processor time, the quickest of some runs."""
        argument = start + atom * (length // len(atom)) + end
        best = None
        for _ in range(5):
            began = time.process_time_ns()
            masked([argument])
            took = time.process_time_ns() - began
            best = took if best is None else min(best, took)
        assert best is not None
        return best

    # Four times the length; sixteen times the time if it were quadratic.
    assert steps(400_000) < 9 * max(steps(100_000), 100_000)
