"""A log handler that writes to the database, and guards nothing."""

import logging

from django.db import connections


class DatabaseHandler(logging.Handler):
    """Insert each record into the table ``log`` of the alias ``using``."""

    def __init__(self, using="default"):
        super().__init__()
        self.using = using

    def emit(self, record):
        with connections[self.using].cursor() as cursor:
            cursor.execute(
                "INSERT INTO log (logger, message, thread) VALUES (%s, %s, %s)",
                [record.name, self.format(record), record.threadName],
            )
