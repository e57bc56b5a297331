"""Fixtures that every room's tests share: the outside world, real and misbehaving."""

pytest_plugins = ["outside.plugin"]
