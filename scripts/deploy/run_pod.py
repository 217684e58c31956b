"""Runs the Pod of a rendered overlay with the sidecar, as far as one can without Kubernetes.

Arguments: the manifests, the image of the proxy, that of the backend, a directory to work in. Must be started in a network of its own.
"""

import base64
import hashlib
import pathlib
import sys

import yaml
from engine import ask, podman, run, wait_for
from faults import end, expect

MANIFESTS, PROXY, BACKEND, WORK = sys.argv[1:]
TOKEN = "token-of-the-pod-0123456789"


def runnable(manifest):
    """What podman can run of it: a native sidecar is a container like others here, and nobody probes."""
    manifest["metadata"].pop("namespace", None)
    if manifest["kind"] == "Secret":
        # podman decodes none before 4.4, and knows no fsGroup, by which the Pod's user may read one.
        manifest["kind"] = "ConfigMap"
        del manifest["type"]
        text = base64.b64decode(manifest["data"]["credentials.yaml"]).decode()
        # The sample's digest opens for nobody.
        text = text.replace("0" * 64, hashlib.sha256(TOKEN.encode()).hexdigest())
        manifest["data"]["credentials.yaml"] = text
    if manifest["kind"] == "Deployment":
        manifest["spec"]["replicas"] = 1
        pod = manifest["spec"]["template"]["spec"]
        pod["containers"] += pod.pop("initContainers")
        for volume in pod["volumes"]:
            if "secret" in volume:
                volume["configMap"] = {"name": volume.pop("secret")["secretName"]}
        for container in pod["containers"]:
            container["image"] = PROXY if container["name"] == "scim-guard" else BACKEND
            for key in ("restartPolicy", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
                container.pop(key, None)
    return manifest


run("ip", "link", "set", "lo", "up")
with open(MANIFESTS) as file:
    kinds = [manifest for manifest in yaml.safe_load_all(file) if manifest["kind"] in ("Deployment", "ConfigMap", "Secret")]
pod = pathlib.Path(WORK) / "pod.yaml"
pod.write_text(yaml.safe_dump_all(map(runnable, kinds)))
podman("play", "kube", "--network", "host", pod)
status, body = wait_for("answer of the backend", lambda: (answer := ask(TOKEN))[0] == 200 and answer)
expect("x-scim-credential-id: scimcred-demo00000001" in body.lower(), f"the backend was told {body}")
expect(ask("unknown-token-0123456789")[0] == 401, "an unknown token is not refused")
podman("stop", "--time", "20", "scim-pod-0-scim-guard")
code = podman("inspect", "--format", "{{.State.ExitCode}}", "scim-pod-0-scim-guard").stdout.strip()
expect(code == "0", f"SIGTERM: exit {code}")
podman("pod", "rm", "--force", "--time", "1", "--all")
end()
