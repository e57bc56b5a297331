"""A plugin for pytest where a processor is emulated: fewer examples of properties, and what each test cost.

Wall time says little beside other work, so that it counts processor time, that of ended children included.
"""

import os

import pytest
from hypothesis import settings

MOST_EXAMPLES = 15
SHOWN = 12

_costs = {}


def pytest_collection_modifyitems(config, items):
    """Ask for fewer examples."""
    for item in items:
        test = getattr(item, "obj", None)
        test = getattr(test, "__func__", test)
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if own is not None and own.max_examples > MOST_EXAMPLES:
            test._hypothesis_internal_use_settings = settings(own, max_examples=MOST_EXAMPLES)  # noqa: SLF001


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Take the time of one test with its fixtures."""
    before = sum(os.times()[:4])
    yield
    _costs[item.nodeid] = sum(os.times()[:4]) - before


def pytest_terminal_summary(terminalreporter):
    """Say what cost most."""
    terminalreporter.line(f"{sum(_costs.values()):.0f} s of processor time for {len(_costs)} tests")
    for name, cost in sorted(_costs.items(), key=lambda pair: -pair[1])[:SHOWN]:
        if cost > 3:
            terminalreporter.line(f"{cost:6.1f} s {name}")
