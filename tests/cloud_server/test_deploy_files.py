"""The files in deploy/: that they are well formed, belong together, and give our commands what those take."""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sdk.cloud.commands import ota, serve
from edge_sdk.commands import agent
from edge_sdk.protocol.names import SERVICE
from outside.sources import ROOT

yaml = pytest.importorskip("yaml")
DEPLOY = ROOT / "deploy"
COMMANDS = {"serve": serve, "ota": ota, "agent": agent}
OPTION_OF_PORT = {"grpc": "grpc_port", "http": "http_port", "metrics": "metrics_port", "h2c": "grpc_port"}


def documents(name: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a file by kind."""
    found = [one for one in yaml.safe_load_all((DEPLOY / name).read_text()) if one]
    assert all({"apiVersion", "kind", "metadata", "spec"} == {*one} for one in found)
    return {one["kind"]: one for one in found}


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return what our command makes of its arguments; ends the test where it refuses them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    COMMANDS[arguments[0]].configure(parser)
    return parser.parse_args([*map(str, arguments[1:])])


def instructions() -> dict[str, list[str]]:
    """Return what each instruction of the Dockerfile says."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


def test_every_file_is_yaml_or_has_a_check_of_its_own() -> None:
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    for name in {name for name in files if name.endswith(".yaml")}:
        assert [*yaml.safe_load_all((DEPLOY / name).read_text())], name
    assert files - {name for name in files if name.endswith(".yaml")} == {
        "Dockerfile",
        "Dockerfile.dockerignore",
        "edge-sdk-agent.service",
        "mosquitto.conf",
    }


CHECKER = os.environ.get("EDGE_SDK_DEPLOY_PYTHON", "")
BROKEN = {
    "kubernetes/fallback.yaml": ("maxReplicas: 10", "maxReplica: 10", "HorizontalPodAutoscaler"),
    "kubernetes/kserve.yaml": ("storageUri:", "storageURI:", "has no storageURI"),
    "kubernetes/kserve-triton.yaml": ("minReplicas: 2", "minReplicas: two", "minReplicas should be int"),
    "compose.yaml": ("depends_on: [broker]", "depends_on: broker", "depends_on"),
    "Dockerfile": ("USER 10001", "USER root", "DL3002"),
}


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "tests" / "fixtures" / "foreign" / "check_deploy.py"
    command = [CHECKER, str(program), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not CHECKER, reason="EDGE_SDK_DEPLOY_PYTHON is not set: a Python with what check_deploy.py names")
def test_those_who_read_the_files_take_them_and_would_not_take_others(tmp_path: Path) -> None:
    done = check(DEPLOY)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    for name, (right, wrong, _) in BROKEN.items():
        path = tmp_path / "deploy" / name
        text = path.read_text()
        assert right in text
        path.write_text(text.replace(right, wrong))
    done = check(tmp_path / "deploy")
    assert done.returncode == 1
    for *_, said in BROKEN.values():
        assert said in done.stdout


def test_the_unit_of_the_agent_runs_our_command_and_keeps_its_state_where_that_may_write() -> None:
    unit = configparser.ConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / "edge-sdk-agent.service").read_text())
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/edge-sdk")
    assert parsed(arguments).config is not None
    assert unit["Service"]["StateDirectory"] == "edge-sdk", "all else is read-only to it"
    assert unit["Service"]["Restart"] == "always"


def test_the_image_runs_our_server_as_nobody_special() -> None:
    said = instructions()
    assert json.loads(said["ENTRYPOINT"][-1]) == ["edge-sdk"]
    command = parsed(json.loads(said["CMD"][-1]))
    assert command.host == "0.0.0.0"
    assert said["EXPOSE"] == [f"{command.grpc_port} {command.http_port} {command.metrics_port}"]
    assert int(said["USER"][-1]) > 0
    ignored = {
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n") if line[:1] not in ("#", "")
    }
    needed = {"ext", "cascade", "edge_sdk", "compression", "cloud", "examples", "pyproject.toml", "setup.py"}
    assert not ignored & {*needed, "constraints.txt", "README.md", "LICENSE"}


def test_the_services_of_compose_run_our_commands_and_find_each_other() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert {*services} == {"broker", "server", "repository"}
    server, repository = (parsed(services[name]["command"]) for name in ("server", "repository"))
    ports = {int(mapping.rpartition(":")[2]) for mapping in services["server"]["ports"]}
    assert ports == {server.grpc_port, server.http_port, server.metrics_port}
    assert all(mapping.startswith("127.0.0.1:") for one in services.values() for mapping in one.get("ports", ()))
    assert repository.broker == "mqtt://broker:1883"
    assert repository.keys
    assert services["repository"]["depends_on"] == ["broker"]
    assert f":{server.http_port}/v2/health/ready" in services["server"]["healthcheck"]["test"][-1]
    for name in ("server", "repository"):
        dockerfile = services[name]["build"]
        assert (DEPLOY / dockerfile["context"] / dockerfile["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        inside = {volume.split(":")[1] for volume in services[name]["volumes"]}
        asked = [server.paths[0]] if name == "server" else [repository.folder, *repository.keys]
        assert {str(path) for path in asked} <= inside
    conf = dict(line.split(" ", 1) for line in (DEPLOY / "mosquitto.conf").read_text().splitlines() if line[0] != "#")
    assert conf["listener"] == "1883"
    assert int(conf["max_packet_size"]) >= 128_000


def test_the_manifests_of_kubernetes_belong_together() -> None:
    found = documents("kubernetes/fallback.yaml")
    assert {*found} == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    deployment, service = found["Deployment"], found["Service"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert labels == found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    (container,) = pod["spec"]["containers"]
    check_container(container)
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert {probe["httpGet"]["port"] for probe in probes(container) if "httpGet" in probe} <= names
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert str(parsed(container["args"]).paths[0]) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert "cpu" in container["resources"]["requests"], "else the autoscaler has nothing to compare with"
    assert "replicas" not in deployment["spec"], "else each apply would undo what the autoscaler did"
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert wait + 2 < pod["spec"]["terminationGracePeriodSeconds"]


def test_the_manifests_of_kserve_belong_together() -> None:
    found = documents("kubernetes/kserve.yaml")
    runtime, service = found["ServingRuntime"], found["InferenceService"]
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    check_container(container)
    assert parsed(container["args"]).paths[0].as_posix() == "/mnt/models", "where KServe puts what storageUri names"
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"] in [
        {"name": one["name"], "version": one["version"]} for one in runtime["spec"]["supportedModelFormats"]
    ]


def test_the_service_on_triton_differs_from_ours_in_its_runtime_only() -> None:
    ours = documents("kubernetes/kserve.yaml")["InferenceService"]
    theirs = documents("kubernetes/kserve-triton.yaml")["InferenceService"]
    model = theirs["spec"]["predictor"]["model"]
    assert (model.pop("runtime"), model.pop("modelFormat")["name"]) == ("kserve-tritonserver", "triton")
    assert [port["name"] for port in model.pop("ports")] == ["h2c"]
    for key in ("runtime", "modelFormat"):
        del ours["spec"]["predictor"]["model"][key]
    assert theirs == ours
    text = (ROOT / "docs" / "use-triton-or-kserve.md").read_text()
    shown = yaml.safe_load(textwrap.dedent(re.search(r"    apiVersion:.*?\n\n", text, re.DOTALL)[0]))
    whole = documents("kubernetes/kserve-triton.yaml")["InferenceService"]
    for key in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"):
        del whole["spec"]["predictor"][key]
    assert shown == whole


def check_container(container: dict[str, Any]) -> None:
    """Hold the ports and probes of a container against the arguments that it is started with."""
    asked = parsed(container["args"])
    assert asked.host == "0.0.0.0"
    for port in container["ports"]:
        assert getattr(asked, OPTION_OF_PORT[port["name"]]) == port["containerPort"]
    for probe in probes(container):
        if "grpc" in probe:
            assert probe["grpc"]["port"] == asked.grpc_port
        else:
            assert probe["httpGet"]["port"] in ("http", asked.http_port)
            assert probe["httpGet"]["path"] in ("/v2/health/live", "/v2/health/ready")


def probes(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (probe for key, probe in container.items() if key.endswith("Probe"))


def test_envoy_routes_to_clusters_that_there_are_and_asks_each_for_its_health() -> None:
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in envoy["clusters"]}
    for name, cluster in clusters.items():
        assert cluster["load_assignment"]["cluster_name"] == name
        (check,) = cluster["health_checks"]
        assert check["grpc_health_check"]["service_name"] == SERVICE
    manager = envoy["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    split = {one["name"]: one["weight"] for one in route["weighted_clusters"]["clusters"]}
    mirrored = {one["cluster"] for one in route["request_mirror_policies"]}
    assert sum(split.values()) == 100
    assert {*split} | mirrored == {*clusters}
    assert not {*split} & mirrored
