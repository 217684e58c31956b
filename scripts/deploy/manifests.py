"""Fails for what no schema of Kubernetes knows: a container that is not locked down, numbers that must agree and do not.

Arguments: rendered manifests, and a directory to lay the Pods of scim-guard out in. Prints the path of each process's
configuration as its container sees it.
"""

import base64
import os
import re
import sys

import yaml
from faults import end, end_of, expect, port
from standins import standin


def contents(volume):
    """The files of a volume, as the objects that were rendered beside it hold them."""
    if "configMap" in volume:
        return objects["ConfigMap", volume["configMap"]["name"]]["data"]
    if "secret" in volume:
        return secret_files(volume["secret"]["secretName"], volume["secret"].get("items"))
    files = {}
    for source in volume.get("projected", {}).get("sources", []):
        files |= secret_files(source["secret"]["name"], source["secret"].get("items"))
    return files


def secret_files(name, items):
    if ("Secret", name) in objects:
        data = objects["Secret", name]["data"]
        return {file: base64.b64decode(data[file]).decode() for file in data}
    # Somebody else makes it, so the manifest must say which keys it is to have.
    expect(items, f"Secret {name}: neither rendered nor mounted with a list of items")
    return {item["path"]: standin(item["key"]) for item in items or []}


def check_container(container):
    name = container["name"]
    security = container.get("securityContext", {})
    expect(security.get("allowPrivilegeEscalation") is False, f"{name}: allowPrivilegeEscalation is not false")
    expect(security.get("readOnlyRootFilesystem") is True, f"{name}: readOnlyRootFilesystem is not true")
    expect(security.get("capabilities") == {"drop": ["ALL"]}, f"{name}: capabilities other than drop: [ALL]")
    expect(not {"runAsUser", "runAsNonRoot", "seccompProfile", "privileged"} & security.keys(), f"{name}: overrides the Pod's securityContext")
    for kind in ("requests", "limits"):
        expect({"cpu", "memory"} <= container.get("resources", {}).get(kind, {}).keys(), f"{name}: resources.{kind} without cpu or memory")
    expect(re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), f"{name}: image without a digest")
    expect(all("subPath" not in mount for mount in container.get("volumeMounts", [])), f"{name}: a subPath mount never sees a change")


def check_pod(spec):
    security = spec.get("securityContext", {})
    expect(security.get("runAsNonRoot") is True, "runAsNonRoot is not true")
    expect(security.get("runAsUser", 0) > 10000, "runAsUser is not above 10000")
    expect(security.get("runAsGroup", 0) > 10000, "runAsGroup is not above 10000")
    expect(security.get("seccompProfile") == {"type": "RuntimeDefault"}, "seccompProfile is not RuntimeDefault")
    expect(spec.get("automountServiceAccountToken") is False, "automountServiceAccountToken is not false")
    expect(spec.get("enableServiceLinks") is False, "enableServiceLinks is not false")


def check_ports(name, labels, guard, config):
    ops = {port(config["ops"]["listen"])}
    faces = {port(listener["address"]) for listener in config.get("proxy", {}).get("listeners", [])}
    faces |= {port(listener["address"]) for listener in config.get("decision", [])}
    faces |= {port(config["admin"]["listen"])} if "admin" in config else set()
    expect({entry["containerPort"] for entry in guard["ports"]} == faces | ops, f"{name}: the container's ports are not those it listens on")
    for probe, path in {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}.items():
        asked = guard[probe]["httpGet"]
        expect({asked["port"]} == ops and asked.get("path", "").split("?")[0] == path, f"{name}: {probe}: not {path} of ops")
    services = [manifest["spec"] for manifest in of_kind("Service") if selects({"matchLabels": manifest["spec"]["selector"]}, labels)]
    targeted = {entry["targetPort"] for service in services for entry in service["ports"]}
    expect(targeted == faces, f"{name}: Services target {targeted}, and it serves {faces}")
    policies = [policy for policy in of_kind_specs("NetworkPolicy") if selects(policy["podSelector"], labels)]
    expect(any("Ingress" in policy["policyTypes"] for policy in policies), f"{name}: no NetworkPolicy selects it")
    rules = [rule for policy in policies for rule in policy.get("ingress", [])]
    admitted = {entry["port"] for rule in rules for entry in rule["ports"]}
    expect(admitted == faces | ops, f"{name}: NetworkPolicies admit {admitted}, and it listens on {faces | ops}")


def check_memory(name, guard, config):
    """All connections at their most must fit: what one takes was measured, and stands at the container's resources."""
    each = 1.3 if "listeners" in config["proxy"] else 0.05
    most = 25 + each * config["proxy"].get("limits", {}).get("connections", 10000)
    expect(int(guard["resources"]["limits"]["memory"].removesuffix("Mi")) > most, f"{name}: limits.connections may take {most:.0f} MB")


def check_spread(name, labels, spec):
    """Of several Pods no node has all, and no drain of a node takes all."""
    spread = [entry["labelSelector"] for entry in spec.get("topologySpreadConstraints", [])]
    expect(any(selector and all(selector.values()) and selects(selector, labels) for selector in spread), f"{name}: no topologySpreadConstraints for its Pods")
    budgets = [budget["selector"] for budget in of_kind_specs("PodDisruptionBudget")]
    expect(any(selects(selector, labels) for selector in budgets), f"{name}: no PodDisruptionBudget selects it")


def check_end(name, spec, config):
    hooks = (container.get("lifecycle", {}).get("preStop", {}) for container in spec["containers"])
    sleep = max(hook.get("sleep", {}).get("seconds", 0) for hook in hooks)
    expect(sleep > 0, f"{name}: no container waits in preStop until the endpoints are gone")
    needed = end_of(config, sleep)
    expect(spec["terminationGracePeriodSeconds"] > needed, f"{name}: terminationGracePeriodSeconds is not above {needed} s, with preStop and drain")


def check_admin_url(name, labels, config):
    """A proxy that follows an admin API of these manifests must be able to find and reach it."""
    url = config["credentials"].get("native", {}).get("url")
    host, _, number = (url or "").removeprefix("https://").partition(":")
    if ("Service", host.split(".")[0]) not in objects:
        expect("." in host or not host, f"{name}: no Service {host}")
        return
    service = objects["Service", host.split(".")[0]]["spec"]
    expect(int(number) in {entry["port"] for entry in service["ports"]}, f"{name}: {url} is no port of the Service")
    names = [given for made in of_kind("Certificate") for given in made["spec"].get("dnsNames", [])]
    expect(not names or host in names, f"{name}: no Certificate has the name in {url}")
    out = [policy for policy in of_kind_specs("NetworkPolicy") if "Egress" in policy["policyTypes"] and selects(policy["podSelector"], labels)]
    leaves = {entry["port"] for policy in out for rule in policy.get("egress", []) for entry in rule["ports"]}
    expect(not out or {entry["targetPort"] for entry in service["ports"]} <= leaves, f"{name}: no NetworkPolicy lets it out to {url}")


def is_chosen(peer):
    """Whether the peer of a rule is some Pods, and not all."""
    return peer and all(selector and all(selector.values()) for selector in peer.values())


def check_policies():
    """A rule is open to somebody only, and its policy puts it in force."""
    for manifest in of_kind("NetworkPolicy"):
        name, spec = f"NetworkPolicy {manifest['metadata']['name']}", manifest["spec"]
        for kind, key in {"ingress": "from", "egress": "to"}.items():
            expect(kind not in spec or kind.capitalize() in spec["policyTypes"], f"{name}: {kind} is not of its types")
            for rule in spec.get(kind, []):
                peers = rule.get(key)
                expect(peers and all(is_chosen(peer) for peer in peers), f"{name}: {kind} is open to everybody")
                expect(all(entry["protocol"] in ("TCP", "UDP") for entry in rule["ports"]), f"{name}: {kind} by another protocol")


def check_references():
    """What points at Pods by label must find some, or it does nothing and nobody notices."""
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for manifest in of_kind(kind):
            found = [guard for labels, guard in guards if selects(manifest["spec"]["selector"], labels)]
            expect(found, f"{kind} {manifest['metadata']['name']} selects no Pod")
            for endpoint in manifest["spec"].get("podMetricsEndpoints", []):
                renamed = {entry["targetLabel"]: entry["replacement"] for entry in endpoint.get("relabelings", [])}
                expect(renamed.get("job") == "scim-guard", f"{kind}: not the job that the alert rules ask for")
                expect(all(endpoint["port"] in {entry["name"] for entry in guard["ports"]} for guard in found), f"{kind}: no port {endpoint['port']}")


def of_kind(wanted):
    return [manifest for (kind, _), manifest in objects.items() if kind == wanted]


def of_kind_specs(wanted):
    return [manifest["spec"] for manifest in of_kind(wanted)]


def selects(selector, labels):
    holds = {"In": lambda entry: labels.get(entry["key"]) in entry["values"], "Exists": lambda entry: entry["key"] in labels}
    matched = all(holds[entry["operator"]](entry) for entry in selector.get("matchExpressions", []))
    return matched and selector.get("matchLabels", {}).items() <= labels.items()


def lay_out(root, spec, guard):
    """Makes the directories that the container sees, links and all, and returns its configuration moved there."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounts = [(mount["mountPath"], contents(volumes.get(mount["name"], {}))) for mount in guard["volumeMounts"]]
    path = guard["args"][guard["args"].index("--config") + 1]
    original = None
    for mount, names in mounts:
        os.makedirs(f"{root}{mount}/..version")
        os.symlink("..version", f"{root}{mount}/..data")
        for name, text in names.items():
            if f"{mount}/{name}" == path:
                original = text
                for other, _ in mounts:
                    text = text.replace(f"{other}/", f"{root}{other}/")
            with open(f"{root}{mount}/..version/{name}", "w") as file:
                file.write(text)
            os.symlink(f"..data/{name}", f"{root}{mount}/{name}")
    return f"{root}{path}", yaml.safe_load(original)


rendered, directory = sys.argv[1:]
with open(rendered) as file:
    objects = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in yaml.safe_load_all(file) if manifest}
guards = []
for (kind, name), workload in objects.items():
    if kind not in ("Deployment", "StatefulSet"):
        continue
    template = workload["spec"]["template"]
    spec, labels = template["spec"], template["metadata"]["labels"]
    containers = spec.get("initContainers", []) + spec["containers"]
    check_pod(spec)
    for container in containers:
        check_container(container)
    for guard in (container for container in containers if "--config" in container.get("args", [])):
        guards.append((labels, guard))
        path, config = lay_out(f"{directory}/{name}", spec, guard)
        check_ports(name, labels, guard, config)
        check_end(name, spec, config)
        if "proxy" in config:
            check_memory(name, guard, config)
        expect(spec["securityContext"].get("fsGroup"), f"{name}: without fsGroup it cannot read its Secrets")
        if workload["spec"]["replicas"] > 1:
            check_spread(name, labels, spec)
            rolling = workload["spec"].get("strategy", {}).get("rollingUpdate", {})
            expect(rolling.get("maxUnavailable") == 0, f"{name}: an update takes Pods away before others are ready")
        check_admin_url(name, labels, config)
        print(path)
check_references()
check_policies()
expect(guards, "no container runs scim-guard")
end()
