"""A server whose versions share the requests: each answer is taken for what gave it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.processing import ProcessingSpec
from edge_sdk.protocol import set_parameter
from edge_sdk.protocol.names import (
    DIGEST_PARAMETER,
    DIGEST_PROPERTY,
    ENCODINGS_PROPERTY,
    LABELS_PROPERTY,
    OUTPUTS_PROPERTY,
    PROCESSING_PROPERTY,
)
from outside.odd import OddCloud

PATIENT = 20.0


class SharedCloud(OddCloud):
    """Says of the model what is true of a version, by digest, and answers as the next one of ``turns``."""

    def __init__(self, described: str, turns: Iterator[str], processing: dict[str, ProcessingSpec]) -> None:
        super().__init__()
        self.turns, self.processing = turns, processing
        self.describe(described)
        self.change = self.answer

    def describe(self, digest: str) -> None:
        spec = self.processing[digest]
        self.shape = [-1, *spec.output_shape[1:]]
        self.properties = {
            DIGEST_PROPERTY: digest,
            LABELS_PROPERTY: json.dumps(self.labels),
            OUTPUTS_PROPERTY: "probabilities",
            PROCESSING_PROPERTY: json.dumps(spec.to_json()),
            ENCODINGS_PROPERTY: "tensor,captured",
        }

    labels: tuple[str, ...] = ()

    def answer(self, response: Any) -> None:
        digest = next(self.turns)
        set_parameter(response.parameters, DIGEST_PARAMETER, digest)
        self.describe(digest)


@pytest.fixture
def spec(pair) -> Iterator[ProcessingSpec]:
    with edge_sdk.load(pair.edge) as model:
        SharedCloud.labels = model.labels
        yield model.processor.spec.without_quantize()


def test_versions_that_take_turns_void_the_certificate_without_a_flood_in_the_log(pair, spec, caplog) -> None:
    turns = itertools.cycle(["sha256:b", pair.cloud_digest])
    with (
        SharedCloud(pair.cloud_digest, turns, {"sha256:b": spec, pair.cloud_digest: spec}) as cloud,
        edge_sdk.connect(pair.edge, cloud=cloud.address, deadline=PATIENT) as model,
    ):
        answers = [model.predict(pair.hard[0]) for _ in range(10)]
    assert [(answer.source, answer.certified) for answer in answers] == [("cloud", False), ("cloud", True)] * 5
    assert caplog.text.count("the certificate is void") == 1


@pytest.mark.parametrize("encoding", ["tensor", "captured"])
def test_what_was_processed_for_one_version_is_no_question_to_another(pair, spec, encoding: str) -> None:
    other = ProcessingSpec.image(*spec.output_shape[1:3], spec.channels, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert other != spec
    turns = itertools.repeat(pair.cloud_digest)
    with (
        SharedCloud("sha256:a", turns, {"sha256:a": other, pair.cloud_digest: spec}) as cloud,
        edge_sdk.connect(pair.edge, cloud=Cloud(cloud.address, encoding=encoding), deadline=PATIENT) as model,
    ):
        first, second = (model.predict(pair.hard[0]) for _ in range(2))
    if encoding == "tensor":
        assert (first.source, first.reason, first.certified) == ("edge", "rejected", False)
    else:
        assert (first.source, first.certified) == ("cloud", True)
    assert (second.source, second.certified) == ("cloud", True), "it is known by now which answers"
