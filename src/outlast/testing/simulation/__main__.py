"""Runs the command; see `command`."""

from outlast.testing.simulation.command import main

raise SystemExit(main())
