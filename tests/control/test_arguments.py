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
        # As curl, httpie and Flower take them.
        ("'--header=Authorization:Bearer hunter2'", "--header=Authorization:***"),
        ("-H 'Proxy-Authorization:Basic hunter2 er2'", None),
        ("-H 'Cookie:sessionid=hunter2; er2'", "-H Cookie:***"),
        ("X-Api-Key:hunter2", "X-Api-Key:***"),
        ("-c 'curl -H PRIVATE-TOKEN:hunter2 host'", None),
        ("--oauth2-bearer hunter2", "--oauth2-bearer ***"),
        ("--cert /etc/me.pem:hunter2", "--cert /etc/me.pem:***"),
        ("--proxy-cert=me.pem:hunter2", "--proxy-cert=me.pem:***"),
        ("-U me:hunter2", "-U me:***"),
        ("-x me:hunter2@proxy:3128", "-x me:***@proxy:3128"),
        ("--creds hunter2 --pat hunter2", "--creds *** --pat ***"),
        ("--webhook-url=https://hooks/hunter2", "--webhook-url=***"),
        # As libpq, Redis, Celery and Sentry do.
        ("//shop:hunter2@db/shop", "//shop:***@db/shop"),
        ("postgres:/shop:hunter2@db", "postgres:***@db"),
        ("shop:hunter2@db", "shop:***@db"),
        ("shop:hunt@er2@db", "shop:***@db"),
        ("--db=shop:hunter2@db", "--db=shop:***@db"),
        ("'x shop:hunter2@db http://host/'", "x shop:***@db http://host/"),
        ("shop:hunter2@db,http://host/", "shop:***@db,http://host/"),
        ("unix:/run/x,shop:hunter2@db", "unix:***@db"),
        ("host=db\\ password=hunt\\'er2", None),
        ("--requirepass hunter2", "--requirepass ***"),
        ("--masterauth hunter2", "--masterauth ***"),
        ("db+postgresql://shop:hunter2@db/shop", "db+postgresql://shop:***@db/shop"),
        ("sqs://AKIA:hunt/er2@", "sqs://AKIA:***@"),
        ("smtp://me@x.org:hunter2@mail:25", "smtp://me@x.org:***@mail:25"),
        ("SENTRY_DSN=https://hunter2@o1.ingest.sentry.io/1", "SENTRY_DSN=***"),
        ("gevent+https://hunter2@sentry/1", "gevent+https://***@sentry/1"),
        # As environments and settings are set.
        ("-e AWS_SECRET_ACCESS_KEY=hunter2", "-e AWS_SECRET_ACCESS_KEY=***"),
        ("-e 'X=1 DB_PASSWORD=hunter2'", "-e X=1 DB_PASSWORD=***"),
        ("constance set API_TOKEN hunter2", "constance set API_TOKEN ***"),
        # A value that begins like an option.
        ("--password --hunter2 run", "--password *** run"),
        ("'--password --hunter2 run'", "--password *** run"),
        ("--no-auth --password hunter2", "--no-auth *** ***"),
        ("'--no-auth --password hunter2'", "--no-auth --password ***"),
        ("--no-auth --user me:hunter2", "--no-auth *** me:***"),
        ("'--no-auth --user me:hunter2'", None),
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
        "--password -b :80",
        "--user www-data --group 1000 -u 1000 --bind unix:/run/x",
        "--design=x --signal 9 --pwn x --basalt x",
        "passenger:app http://host/me@example.org",
        "'host=db user=shop'",
        "--bind my-auth:8000 --cache redis://session-store:6379/0 auth-service:80",
        "tokens:app session:create_app() x-tokens/x:80 http://my-key:80/",
        "--bind unix:/run/shop@1.sock --contact=mailto:me@example.org",
        "me@example.org,you@example.org git@host:shop/shop.git -n worker@%h",
        "-A Shop API_VERSION 3 --certfile /etc/me.pem --path /srv/a:/srv/b",
        "git+https://host/shop@v1 -H Accept:text/html run",
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
        ("", "a:,", ""),
        ("", "a:,", "@h"),
        ("", "unix:", "@h"),
        ("", "x-", "token:"),
        ("x-", "key", ":"),
        ("", "x-key:80 ", ""),
        ("", "--no-auth ", ""),
        ("", "A_", ""),
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
