"""Makes the dashboard for Grafana and the rules for Prometheus from the program's table of metrics."""
