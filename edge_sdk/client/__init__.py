"""The hybrid client: the edge answers, the cloud is asked when the rule says so, and always in time."""

from __future__ import annotations

import os

from edge_sdk.cascade.control import Budget
from edge_sdk.client.cache import Cache
from edge_sdk.client.cloud import Cloud, Hedging
from edge_sdk.client.connecting import connect
from edge_sdk.client.hybrid import MODES, HybridModel, Mode
from edge_sdk.client.journal import Journal
from edge_sdk.client.outbox import Outbox
from edge_sdk.client.privacy import PrivacyRule, Question

__all__ = [
    "MODES",
    "Budget",
    "Cache",
    "Cloud",
    "Hedging",
    "HybridModel",
    "Journal",
    "Mode",
    "Outbox",
    "PrivacyRule",
    "Question",
    "connect",
]

# gRPC, where it is loaded later, writes a line to standard error at every handshake that fails, once a second
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
