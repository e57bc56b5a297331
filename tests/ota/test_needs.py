"""Bundles that are for some devices only."""

from __future__ import annotations

import pytest

from edge_sdk.errors import InputError, TrustError
from edge_sdk.ota.needs import Needs
from edge_sdk.ota.records import Target
from outside.updates import Fleet, make_bundle


def test_a_bundle_for_other_devices_is_refused_before_it_is_fetched_and_one_for_this_kind_is_taken(
    fleet: Fleet,
) -> None:
    target = fleet.repository.add(make_bundle(fleet.folder, "1.0.0"), device_classes=["camera", "gate"], sdk="0.1.0")
    assert target.needs == Needs(("camera", "gate"), "0.1.0", "onnx")
    assert fleet.repository.bundles()["tiny-1.0.0"] == target
    fleet.repository.assign("cam-1", "tiny-1.0.0")
    assert fleet.check(device_class="sensor") == "refused"
    assert "of the class camera, gate; this one is sensor" in fleet.events[-1].reason
    assert "downloading" not in {event.state for event in fleet.events}
    fleet.repository.assign("cam-1", "tiny-1.0.0")
    assert fleet.check(device_class="camera") == "active"


@pytest.mark.parametrize(
    ("needs", "objection"),
    [
        (Needs(), None),
        (Needs(("camera",)), "this one says none"),
        (Needs(sdk="0.0.1"), None),
        (Needs(sdk="99.0.0"), "needs edge-sdk 99.0.0"),
        (Needs(runtime="onnx"), None),
        (Needs(runtime="abacus"), "needs the runtime abacus"),
    ],
)
def test_what_a_device_has_not_is_said(needs: Needs, objection: str | None) -> None:
    said = needs.objection("")
    assert said is None if objection is None else objection in said
    assert Needs.from_dict(needs.to_dict()) == needs


def test_impossible_needs_are_refused_where_they_are_signed_and_where_they_are_read(fleet: Fleet) -> None:
    bundle = make_bundle(fleet.folder, "1.0.0")
    for options in ({"device_classes": ["a b"]}, {"sdk": "new"}):
        with pytest.raises(InputError):
            fleet.repository.add(bundle, **options)
    target = fleet.repository.add(bundle)
    for wrong in (
        {},
        {"device_classes": [1], "sdk": "", "runtime": ""},
        [],
        {"device_classes": [], "sdk": 1, "runtime": ""},
    ):
        with pytest.raises(TrustError):
            Target.from_signed(target.path, target.size, {"sha256": target.sha256}, {**target.custom(), "needs": wrong})
    old = {key: value for key, value in target.custom().items() if key != "needs"}
    assert Target.from_signed(target.path, target.size, {"sha256": target.sha256}, old).needs == Needs()
