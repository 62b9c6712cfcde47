"""The local time-stamping authority as a process of its own: RFC 3161 over HTTP. It is NOT qualified; see `core.tsa`."""
