"""Privacy rules only ever take away, and a rule that cannot tell is meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_sdk.client.privacy import PrivacyRule, Question, check_rules, judge
from edge_sdk.encodings import Reduction, reduce_frame
from edge_sdk.errors import InputError

FRAME = np.zeros((4, 4, 3), np.uint8)


def ask(*rules: PrivacyRule, label: str | None = "cat", **context: object) -> Reduction | None:
    return judge(rules, Question(FRAME, label, context))


def test_without_rules_everything_may_leave() -> None:
    assert ask() == Reduction()


def test_a_rule_that_names_nothing_keeps_everything() -> None:
    assert ask(PrivacyRule()) is None


def test_a_rule_by_label_keeps_that_label_alone() -> None:
    rule = PrivacyRule(labels={"person"})

    assert ask(rule, label="person") is None
    assert ask(rule, label="cat") == Reduction()
    assert ask(rule, label=None) is None  # not known yet


def test_a_rule_by_tenant_and_region_needs_both_to_fit() -> None:
    rule = PrivacyRule(where={"tenant": {"acme"}, "region": {"eu", "uk"}})

    assert ask(rule, tenant="acme", region="uk") is None
    assert ask(rule, tenant="acme", region="us") == Reduction()
    assert ask(rule, tenant="other", region="eu") == Reduction()


def test_a_call_that_does_not_name_its_tenant_is_kept() -> None:
    assert ask(PrivacyRule(where={"tenant": {"acme"}})) is None


def test_a_context_that_cannot_be_compared_is_kept() -> None:
    assert ask(PrivacyRule(where={"tenant": {"acme"}}), tenant=["acme"]) is None


def test_a_predicate_decides_and_a_failing_one_keeps() -> None:
    assert ask(PrivacyRule(when=lambda question: question.label == "cat")) is None
    assert ask(PrivacyRule(when=lambda question: question.label == "dog")) == Reduction()
    assert ask(PrivacyRule(when=lambda question: question.context["hour"] < 6)) is None


def test_reductions_add_up_and_never_outweighs_them() -> None:
    small = PrivacyRule(max_side=100)
    smaller = PrivacyRule(max_side=50, region_of_interest=(0.0, 0.0, 0.5, 1.0))
    lower = PrivacyRule(region_of_interest=(0.25, 0.0, 0.75, 1.0))

    assert ask(small, smaller, lower) == Reduction(50, (0.25, 0.0, 0.5, 1.0))
    assert ask(small, PrivacyRule(labels={"cat"})) is None


def test_regions_without_a_common_part_keep_everything() -> None:
    left, right = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 0.5)

    assert ask(PrivacyRule(region_of_interest=left), PrivacyRule(region_of_interest=right)) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": "person"}, "labels is the text 'person'"),
        ({"where": {"tenant": "acme"}}, "tenant is the text 'acme'"),
        ({"labels": 5}, "labels is 5"),
        ({"where": 5}, "where is 5"),
        ({"where": {"tenant": None}}, "tenant is None"),
        ({"when": 5}, "when is 5"),
        ({"max_side": 0}, "max_side is 0"),
        ({"max_side": float("nan")}, "max_side is nan"),
        ({"max_side": "9"}, "max_side is '9'"),
        ({"region_of_interest": (0.5, 0.5)}, "within the frame"),
        ({"region_of_interest": "abcd"}, "within the frame"),
        ({"region_of_interest": (0.5, 0.0, 0.6, 1.0)}, "within the frame"),
        ({"region_of_interest": (0.0, 0.0, float("nan"), 1.0)}, "within the frame"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        PrivacyRule(**options)


class UnrulyError(Exception):
    """What cannot be compared, hashed or told."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("values", [{"acme"}, ["acme"]])
@pytest.mark.parametrize("value", [UnrulyError(), np.arange(3), [1]], ids=["unruly", "array", "list"])
def test_a_rule_is_meant_for_a_value_that_cannot_be_compared(values: object, value: object) -> None:
    rule = PrivacyRule(where={"tenant": values})

    assert ask(rule, tenant=value) is None or (values == ["acme"] and value == [1])


def test_a_rule_is_meant_where_its_predicate_raises_what_cannot_be_told() -> None:
    def look(question: Question) -> bool:
        raise UnrulyError

    assert ask(PrivacyRule(when=look)) is None


@pytest.mark.parametrize("rules", [None, 5, PrivacyRule()])
def test_what_is_no_list_of_rules_is_refused(rules: object) -> None:
    with pytest.raises(InputError, match="need a list of rules"):
        check_rules(rules, ("person", "cat"), "image")


def test_a_label_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="no label 'persson'"):
        check_rules([PrivacyRule(labels={"persson"})], ("person", "cat"), "image")


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    max_side=st.none() | st.integers(1, 50),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    channels=st.sampled_from([(), (1,), (3,)]),
)
def test_nothing_outside_the_region_is_sent(
    height: int, width: int, max_side: int | None, corners: list[float], channels: tuple[int, ...]
) -> None:
    top, bottom = sorted(corners[:2])
    left, right = sorted(corners[2:])
    assume(top < bottom and left < right)
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    inside = (((rows > top * height) & (rows < bottom * height))[:, None]) & (
        (columns > left * width) & (columns < right * width)
    )
    frame = np.where(inside, 7, 200).astype(np.uint8).reshape(height, width, *[1] * len(channels))
    frame = np.ascontiguousarray(np.broadcast_to(frame, (height, width, *channels)))

    sent = reduce_frame(frame, Reduction(max_side, (top, left, bottom, right)))

    assert max_side is None or max(sent.shape[:2]) <= max_side
    if min(bottom - top, 1) * height >= 2 and (right - left) * width >= 2:
        assert (sent == 7).all()


def test_a_shrunk_picture_is_the_average_of_what_it_was() -> None:
    frame = np.arange(64, dtype=np.uint8).reshape(8, 8)

    assert reduce_frame(frame, Reduction(2)).tolist() == [[14, 18], [46, 50]]  # 13.5 and so on, half to even
