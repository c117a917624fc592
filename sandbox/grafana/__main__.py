"""Write docs/grafana: ``python -m sandbox.grafana``, by ``make grafana``."""

from __future__ import annotations

from pathlib import Path

from sandbox.grafana.alerts import alerts_yml
from sandbox.grafana.dashboard import dashboard_json

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "grafana"

#: What is generated: the names of the files and their contents.
GENERATED = {"dashboard.json": dashboard_json, "alerts.yml": alerts_yml}


def write() -> None:
    """Write every generated file."""
    for name, content in GENERATED.items():
        (DIRECTORY / name).write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    write()
