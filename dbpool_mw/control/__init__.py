"""The control plane: how management commands see and steer the running workers.

Every worker runs a `server.ControlServer` on a Unix socket of its own, and a
`worker.Worker` carries out its requests. A command finds the sockets (`paths`) and
sends all workers a request at once (`client`). It prints their answers as a table of
pools (`pool_table`, whose `columns` are laid out by `tables`, with `rates` from one
look to the next), of routes (`route_table`), as other text and JSON (`render`,
`drain_document`, `cancel_document`) or as `prometheus` text. `orders`
keeps pauses and drains for workers that start later.
`protocol` defines the messages, `peer` tells which user is at the other end of a
socket, `arguments` hides secrets, `sweeping` removes what killed workers left.
Nothing here imports Django.
"""
