"""One module a suite, each with ``tasks() -> tuple[Task, ...]``."""
