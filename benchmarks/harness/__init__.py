"""One way to compare ours with its peers.

A *task* is one job with several *cases*: ours and the peers. `measure` first checks that all cases
give the same answer, then alternates them round by round in this one process, so that a machine that
slows down slows all of them. What comes out is a `TaskResult`: medians with their spread, and for
each peer the ratio to ours, taken round by round.
"""

from harness.machine import Machine
from harness.measure import CaseResult, DisagreementError, Skipped, TaskResult, measure
from harness.tasks import Case, Task, largest_difference

__all__ = [
    "Case",
    "CaseResult",
    "DisagreementError",
    "Machine",
    "Skipped",
    "Task",
    "TaskResult",
    "largest_difference",
    "measure",
]
