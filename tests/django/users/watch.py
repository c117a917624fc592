"""Record which threads of dbpool_mw a process starts."""

import threading


def start(file):
    """Append the name of every thread that starts to a file, in forks too."""
    original = threading.Thread.start

    def start(self):
        if self.name.startswith("dbpool_mw"):
            with open(file, "a", encoding="utf-8") as names:
                names.write(f"{self.name}\n")
        original(self)

    threading.Thread.start = start
