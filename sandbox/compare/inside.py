"""The process in which a subject is measured without a server around it.

``python -m sandbox.compare.inside WORKER MODULE FUNCTION ARGUMENTS`` sets Django up,
after gevent's patches if WORKER is "gevent", calls the function with the arguments,
which are JSON, and prints as JSON what it returns.
"""

from __future__ import annotations

import os
import sys


def main(worker: str, module: str, function: str, arguments: str) -> None:
    """Call the function, print the result, and end without waiting for threads."""
    if worker == "gevent":
        from gevent import monkey

        monkey.patch_all()
    # Nothing may be imported before gevent's patches.
    import json
    import logging
    from importlib import import_module

    import django
    from django.conf import settings

    django.setup()
    settings.ROOT_URLCONF = "sandbox.compare.requests"
    # Pages fail on purpose here, and connections are broken.
    logging.disable()
    result = getattr(import_module(module), function)(*json.loads(arguments))
    print(json.dumps(result), flush=True)
    # A thread may wait for a connection for ever.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
