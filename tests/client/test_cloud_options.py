"""The record of the far side: what it refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_sdk
from edge_sdk.client import Cloud, Hedging
from edge_sdk.errors import InputError

SECRET = "s3cret-of-a-test"


@pytest.mark.parametrize(
    ("endpoints", "targets", "model"),
    [
        ("localhost:8001", ("localhost:8001",), None),
        ("10.0.0.7:8001/teacher", ("10.0.0.7:8001",), "teacher"),
        ("[::1]:8001", ("[::1]:8001",), None),
        (["a:1", "b:2"], ("a:1", "b:2"), None),
        (("a:1/m", "b:2/m"), ("a:1", "b:2"), "m"),
    ],
)
def test_endpoints_are_one_or_several_and_may_name_the_model(endpoints: Any, targets: tuple, model: Any) -> None:
    cloud = Cloud(endpoints)
    assert (cloud.targets, cloud.model_name) == (targets, model)
    assert Cloud.of(cloud) is cloud
    assert Cloud.of(endpoints) == cloud


@pytest.mark.parametrize(
    ("endpoints", "options", "says"),
    [
        ("nohost", {}, "host:port"),
        ("host:99999", {}, "host:port"),
        ("host:80 01", {}, "host:port"),
        ("a host:8001", {}, "host:port"),
        ("::1:8001", {}, "host:port"),
        ("https://host:8001", {}, "host:port"),
        ("", {}, "host:port"),
        (f"host:{'9' * 5000}", {}, "host:port"),
        (8001, {}, "cloud is int"),
        ([], {}, "0 endpoints"),
        (["a:1", 2], {}, "cloud is list"),
        ([f"a:{n}" for n in range(1, 20)], {}, "19 endpoints"),
        (["a:1", "a:1"], {}, "a:1 twice"),
        (["a:1/x", "b:1/y"], {}, "several models"),
        ("a:1/x", {"model_name": "y"}, "name one"),
        ("a:1", {"encoding": "png"}, "encoding is 'png'"),
        ("a\0:1", {}, "host:port"),
        ("a:1", {"encoding": 5}, "encoding is int"),
        ("a:1", {"model_name": 5}, "model_name is int; it should be a text"),
        ("a:1", {"tls_ca": 5}, "tls_ca is int; it should be a path"),
        ("a:1", {"token": b"x"}, "token is bytes; it should be a text"),
        ("a:1", {"coalesce": "no"}, "coalesce is 'no'"),
        ("a:1", {"balance": "random"}, "balance is 'random'"),
        ("a:1", {"hedging": True}, "hedging is bool"),
        ("a:1", {"priority": 0}, "priority is 0"),
        ("a:1", {"priority": True}, "priority is True"),
        ("a:1", {"tls_ca": "ca", "tls_cert": "c"}, "tls_cert and tls_key"),
        ("a:1", {"tls_cert": "c", "tls_key": "k"}, "give tls_ca"),
        ("a:1", {"server_name": "s"}, "give tls_ca"),
        ("a:1", {"token": SECRET}, "unencrypted"),
        (["localhost:1", "a:1"], {"token_file": "t"}, "token for a:1 would travel unencrypted"),
        ("localhost:1", {"token": SECRET, "token_file": "t"}, "given twice"),
        ("localhost:1", {"token": SECRET + "\n"}, "printable ASCII"),
        ("localhost:1", {"token": ""}, "empty"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(endpoints: Any, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Cloud(endpoints, **options)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@given(
    st.one_of(
        st.text(), st.lists(st.text(), max_size=3), st.from_regex(r"\A[a-z.:\[\]0-9]{1,12}:[0-9]{1,6}(/[a-z]*)?\Z")
    )
)
def test_any_text_is_an_endpoint_or_refused_as_none(endpoints: Any) -> None:
    try:
        cloud = Cloud(endpoints)
    except InputError:
        return
    for target in cloud.targets:
        host, _, port = target.rpartition(":")
        assert host
        assert 0 < int(port) < 65536


@pytest.mark.parametrize(
    "options", [{"share": 0.0}, {"share": 0.6}, {"quantile": 1.0}, {"quantile": float("nan")}, {"share": "x"}]
)
def test_hedging_out_of_range_is_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Hedging(**options)


def test_a_token_is_in_no_repr() -> None:
    assert SECRET not in repr(Cloud("localhost:8001", token=SECRET))


def test_a_file_that_cannot_be_read_is_named(pair) -> None:
    for options in ({"tls_ca": "missing.pem"}, {"token_file": "missing.token"}):
        with pytest.raises(InputError, match="missing"):
            edge_sdk.connect(pair.edge, cloud=Cloud("localhost:8001", **options))
