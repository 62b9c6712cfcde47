"""The HTTP API: /v1, the log, health and metrics. See docs/reference/http-api.md."""
