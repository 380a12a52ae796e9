"""launch/mpijob.yaml: an MPIJob that the operator takes, with pods that Kubernetes takes, and a command that trains."""

import copy
import re
from pathlib import Path

import pytest

from alexnet_dist import supervise
from alexnet_dist.supervision.command import Command

yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

LAUNCH = Path(__file__).parent.parent / "launch"
JOB = yaml.safe_load((LAUNCH / "mpijob.yaml").read_text(encoding="utf-8"))

# What the operator's definition of an MPIJob says, beside the pods' templates: kubeflow/mpi-operator,
# manifests/base/kubeflow.org_mpijobs.yaml and pkg/apis/kubeflow/v2beta1/types.go. A tuple lists the values that are allowed.
RUN_POLICY = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "cleanPodPolicy": ("All", "Running", "None"),
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
REPLICAS = {"replicas": int, "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"), "template": dict}
MPIJOB = {
    "apiVersion": ("kubeflow.org/v2beta1",),
    "kind": ("MPIJob",),
    "metadata": {"name": str, "namespace": str, "labels": dict, "annotations": dict},
    "spec": {
        "launcherCreationPolicy": ("AtStartup", "WaitForWorkersReady"),
        "mpiImplementation": ("OpenMPI", "Intel", "MPICH"),
        "mpiReplicaSpecs": {"Launcher": REPLICAS, "Worker": REPLICAS},
        "runLauncherAsWorker": bool,
        "runPolicy": RUN_POLICY,
        "slotsPerWorker": int,
        "sshAuthMountPath": str,
    },
}


def faults(value, expected, where="") -> list[str]:
    """What isn't as the definition says."""
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return [f"{where} must be a table"]
        unknown = [f"{where}.{key} is unknown" for key in value if key not in expected]
        known = [faults(value[key], expected[key], f"{where}.{key}") for key in value if key in expected]
        return unknown + [fault for some in known for fault in some]
    if isinstance(expected, tuple):
        return [] if value in expected else [f"{where} is {value!r}, but must be one of {expected}"]
    return [] if type(value) is expected else [f"{where} is {value!r}, but must be a {expected.__name__}"]


def pod(replicas) -> dict:
    metadata = {"name": "pod", **replicas["template"].get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": replicas["template"]["spec"]}


@pytest.mark.parametrize(
    ("key", "value"), [("slotsPerWorker", "1"), ("mpiImplementation", "LAM"), ("slots", 1), ("runPolicy", None)]
)
def test_a_fault_is_noticed(key, value):
    broken = copy.deepcopy(JOB)
    broken["spec"][key] = value
    assert len(faults(broken, MPIJOB)) == 1


def test_the_operator_takes_it():
    assert faults(JOB, MPIJOB) == []
    assert set(JOB) == set(MPIJOB)
    assert JOB["metadata"]["name"]
    assert set(JOB["spec"]["mpiReplicaSpecs"]) == {"Launcher", "Worker"}


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
def test_kubernetes_takes_its_pods(role):
    there = pod(JOB["spec"]["mpiReplicaSpecs"][role])
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(there, version, strict=True)
    there["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(there, version, strict=True)


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
def test_each_mount_has_its_volume(role):
    spec = JOB["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]
    mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_its_command_trains_on_every_worker_and_is_supervised():
    replicas = JOB["spec"]["mpiReplicaSpecs"]
    words = replicas["Launcher"]["template"]["spec"]["containers"][0]["command"]
    assert words[0] == "alexnet-supervise"
    args = supervise.build_parser().parse_args(words[1:])
    command = Command.of(args.command[1:])
    assert str(command.folder).startswith("/data/")
    per_node = int(words[words.index("-ppn") + 1])
    assert JOB["spec"]["slotsPerWorker"] == per_node
    assert int(words[words.index("-n") + 1]) == per_node * replicas["Worker"]["replicas"]


def test_it_fits_the_image():
    image = (LAUNCH / "Containerfile").read_text(encoding="utf-8")
    worker = JOB["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert f"USER {worker['securityContext']['runAsUser']}\n" in image
    container = worker["containers"][0]
    assert container["command"][-1] in image
    assert f"'Port {container['readinessProbe']['tcpSocket']['port']}'" in image
    home = re.search(r"^ENV HOME=(.*)$", image, re.M)
    assert home is not None
    assert JOB["spec"]["sshAuthMountPath"] == f"{home[1]}/.ssh"
    assert f"{home[1]}/.ssh/id_rsa" in image
