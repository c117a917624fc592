"""The ASGI application with a consumer of Channels beside Django's views."""

import json

from channels.db import database_sync_to_async
from channels.generic.http import AsyncHttpConsumer
from channels.routing import URLRouter
from django.core.asgi import get_asgi_application
from django.db import connection
from django.urls import path, re_path

from dbpool_mw import pooled

views = get_asgi_application()


def query(number):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::int, pg_backend_pid(), pg_sleep(0.01)", [number])
        return cursor.fetchone()[:2]


class Consumer(AsyncHttpConsumer):
    """Answers with what a query selects, on a connection of the pool."""

    async def handle(self, body):
        number = self.scope["query_string"].decode()
        async with pooled():
            found = await database_sync_to_async(query)(number)
        await self.send_response(200, json.dumps(found).encode())


application = URLRouter([path("consumer/", Consumer.as_asgi()), re_path("", views)])
