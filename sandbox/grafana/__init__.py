"""The Grafana dashboard and Prometheus' alert rules, generated into docs/grafana."""
