"""The shared broker, server and bundle are real ones."""

from __future__ import annotations

import threading

import edge_sdk


def test_the_tiny_bundle_classifies_pictures_it_has_not_seen(tiny_edge_bundle):
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        answers = [model.predict(image).index for image in tiny_edge_bundle.images]
    right = sum(int(a == b) for a, b in zip(answers, tiny_edge_bundle.labels, strict=True)) / len(answers)
    assert 0.9 < right < 1.0


def test_the_server_answers_what_the_model_answers(tiny_edge_bundle, server):
    with (
        edge_sdk.load(tiny_edge_bundle.path) as model,
        edge_sdk.connect(tiny_edge_bundle.path, cloud=server, mode="cloud", deadline=30.0) as hybrid,
    ):
        for image in tiny_edge_bundle.images[:5]:
            answer = hybrid.predict(image)
            assert answer.source == "cloud"
            assert answer.index == model.predict(image).index


def test_the_broker_delivers_a_message(broker):
    import paho.mqtt.client as mqtt

    host, _, port = broker.removeprefix("mqtt://").rpartition(":")
    got, subscribed = threading.Event(), threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe("house/test", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda *_: got.set()
    client.connect(host, int(port))
    client.loop_start()
    try:
        assert subscribed.wait(10)
        client.publish("house/test", b"hello", qos=1)
        assert got.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()
