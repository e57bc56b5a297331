"""What is counted of a server's models, for Prometheus: Triton's names where they mean the same, ours for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.counts import BUCKETS, Counts, Histogram
from edge_sdk.cloud.server.entrance import Visitors, visitor_metrics
from edge_sdk.cloud.server.families import Family, Sample, process_metrics
from edge_sdk.cloud.server.models import ServedModel

__all__ = ["metrics_of"]

_Read = Callable[[Counts], float]

_OF_MODELS: tuple[tuple[str, str, str, _Read], ...] = (
    ("nv_inference_request_success", "counter", "Requests answered.", lambda c: c.success.count),
    ("nv_inference_count", "counter", "Items answered.", lambda c: c.items),
    ("nv_inference_exec_count", "counter", "Runs of the model: batches.", lambda c: c.batches),
    ("nv_inference_request_duration_us", "counter", "Time from arrival to answer.", lambda c: c.success.seconds * 1e6),
    ("nv_inference_queue_duration_us", "counter", "Time in the queue.", lambda c: c.queue.seconds * 1e6),
    (
        "nv_inference_compute_input_duration_us",
        "counter",
        "Time for decoding and processing inputs.",
        lambda c: c.prepare.seconds * 1e6,
    ),
    ("nv_inference_compute_infer_duration_us", "counter", "Time in the model.", lambda c: c.compute.seconds * 1e6),
    ("nv_inference_compute_output_duration_us", "counter", "Time for outputs.", lambda c: c.finish.seconds * 1e6),
    ("nv_inference_pending_request_count", "gauge", "Requests that wait or run.", lambda c: c.pending),
    ("edge_pending_input_bytes", "gauge", "What they hold.", lambda c: c.pending_bytes),
    ("nv_cache_num_hits_per_model", "counter", "Requests that the cache answered.", lambda c: c.hits.count),
    ("nv_cache_num_misses_per_model", "counter", "Requests that it did not.", lambda c: c.misses.count),
    ("nv_cache_hit_duration_per_model", "counter", "Time for answers of the cache.", lambda c: c.hits.seconds * 1e6),
    (
        "nv_cache_miss_duration_per_model",
        "counter",
        "Time to look in vain, and to keep the answer.",
        lambda c: c.misses.seconds * 1e6,
    ),
    ("edge_table_hits_total", "counter", "Requests that the table answered.", lambda c: c.table_hits.count),
    ("edge_table_misses_total", "counter", "Requests that it did not.", lambda c: c.table_misses.count),
    ("edge_cache_bytes", "gauge", "What the cache holds.", lambda c: c.cached_bytes),
)
_FAILURES: tuple[tuple[str, _Read], ...] = (
    ("OTHER", lambda c: c.failure.count),
    ("CANCELED", lambda c: c.cancelled),
    ("EXPIRED", lambda c: c.expired),
    ("REJECTED", lambda c: c.shed),
)


def metrics_of(core: Core, visitors: Iterable[Visitors] = ()) -> list[Family]:
    """Return what is counted of the models in this process, of its connections, and of the process itself."""
    entries = core.statistics()
    families: list[Family] = []

    def family(name: str, kind: str, says: str, samples: Iterable[Sample]) -> None:
        families.append(Family(name, kind, says, list(samples)))

    for name, kind, says, read in _OF_MODELS:
        family(name, kind, says, [("", _labels(model), read(counts)) for model, counts in entries])
    family(
        "nv_inference_request_failure",
        "counter",
        "Requests not answered: an error, the caller gone, its time up in the queue, refused for want of room or time.",
        [
            ("", {**_labels(model), "reason": reason}, read(counts))
            for model, counts in entries
            for reason, read in _FAILURES
        ],
    )
    family(
        "edge_batches_total",
        "counter",
        "Runs of the model by how many items they held.",
        [
            ("", {**_labels(model), "size": str(size)}, tally.count)
            for model, counts in entries
            for size, tally in sorted(dict(counts.by_size).items())
        ],
    )
    family(
        "edge_queue_seconds",
        "histogram",
        "Time of a request in the queue.",
        [sample for model, counts in entries for sample in _buckets(_labels(model), counts.waiting)],
    )
    family(
        "edge_request_seconds",
        "histogram",
        "Time of a request from arrival to answer.",
        [sample for model, counts in entries for sample in _buckets(_labels(model), counts.latency)],
    )
    family(
        "edge_model_ready",
        "gauge",
        "Whether the model answers.",
        [
            ("", _labels(model) | {"digest": model.digest}, core.answers(model.name, model.version))
            for model, _ in entries
        ],
    )
    family(
        "edge_table_rows",
        "gauge",
        "Answers that the table holds.",
        [("", _labels(model), model.table.rows) for model, _ in entries if model.table is not None],
    )
    _routing(core, family)
    return [*families, *visitor_metrics(visitors), *process_metrics()]


def _routing(core: Core, family: Callable[[str, str, str, Iterable[Sample]], None]) -> None:
    """Write what was counted where versions share the requests of a model, if any do."""
    routers, shadows = dict(core.routes.routers), dict(core.routes.shadows)
    if not routers and not shadows:
        return
    family(
        "edge_routed_requests_total",
        "counter",
        "Requests that named no version, by the version that was chosen and why.",
        [
            ("", {"model": router.model, "version": version, "route": route}, count)
            for router in routers.values()
            for (version, route), count in sorted(router.counts.items())
        ],
    )
    arms = [
        ({"model": router.model, "version": version, "digest": digest}, arm)
        for router in routers.values()
        for (version, digest), arm in router.arms.items()
    ]
    family("edge_bandit_rewards_total", "counter", "Rewards.", [("", labels, arm.rewards) for labels, arm in arms])
    family("edge_bandit_reward_sum", "counter", "Their sum.", [("", labels, arm.reward) for labels, arm in arms])
    results = [({"model": name, "version": version}, counts) for (name, version), counts in shadows.items()]
    family(
        "edge_shadow_requests_total",
        "counter",
        "Requests mirrored to a version that never answers, by what became of them.",
        [
            ("", {**labels, "result": result}, getattr(counts, result))
            for labels, counts in results
            for result in ("compared", "failed", "skipped")
        ],
    )
    family(
        "edge_shadow_items_total",
        "counter",
        "Items of those compared, by whether the first output is largest at the same place.",
        [
            ("", {**labels, "same": same}, count)
            for labels, counts in results
            for same, count in (("true", counts.same), ("false", counts.items - counts.same))
        ],
    )
    family(
        "edge_shadow_difference_max",
        "gauge",
        "Largest difference of any two numbers so far.",
        [("", labels, counts.difference) for labels, counts in results],
    )


def _labels(model: ServedModel) -> dict[str, str]:
    return {"model": model.name, "version": model.version}


def _buckets(labels: dict[str, str], histogram: Histogram) -> Iterable[Sample]:
    counts = list(accumulate(histogram.counts))
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        yield "_bucket", {**labels, "le": bound}, count
    yield "_sum", labels, histogram.sum
    yield "_count", labels, counts[-1]
