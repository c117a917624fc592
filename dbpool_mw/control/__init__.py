"""The control plane: how management commands see and steer the running workers.

Every worker runs a `server.ControlServer` on a Unix socket of its own. A command finds
the sockets (`paths`), sends all workers a request at once (`client`) and prints their
answers (`render`, `prometheus`). `protocol` defines the messages, `peer` tells which
user is at the other end of a socket, `sweeping` removes what killed workers left.
Nothing here imports Django.
"""
