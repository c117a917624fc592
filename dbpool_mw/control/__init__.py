"""The control plane: how another process sees and steers this one.

A worker runs a `server.ControlServer` on a Unix socket of its own; a management
command finds the sockets (`paths`), asks all workers at once (`client`) and prints
what they say (`render`). `protocol` is the language, `peer` says who is at the other
end. Nothing here imports Django.
"""
