"""Conformance suites: what every implementation of a port must do, as plain functions over any of them."""
