"""Messages of our own service, by which devices tell a server how good an answer of its was.

A service apart from the protocol's, so that other servers have no method of it and refuse it as unimplemented. Its
messages are in the pool of `edge_sdk.protocol.messages`, so that reflection tells of them.
"""

from __future__ import annotations

from edge_sdk.protocol.messages import add_file, message

__all__ = ["FEEDBACK", "RewardRequest", "RewardResponse"]

FEEDBACK = "edge_sdk.Feedback"
"""Name of the service; its one method is ``Reward``."""

add_file("feedback.desc")

RewardRequest = message("edge_sdk.RewardRequest")
RewardResponse = message("edge_sdk.RewardResponse")
