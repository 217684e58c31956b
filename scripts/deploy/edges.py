"""Fails for an edge of Kubernetes that does not fit scim-guard's part beside it, or whose names lead nowhere.

Arguments: the folder, and its manifests as rendered. Prints the files of the folder that are no part of the kustomization.
"""

import itertools
import os
import re
import sys

import yaml
from faults import end, expect
from kustomization import files_of
from models import Mesh, ReferenceGrant
from pydantic import ValidationError

READERS = {"IngressRoute": "traefik", "Middleware": "traefik", "Ingress": "ingress-nginx", "SecurityPolicy": "envoy", "AuthorizationPolicy": "envoy"}
# What the backend is told.
IDENTITY = {"x-scim-credential-id", "x-scim-tenant"}
# Every spelling by which some backend takes a header for ours, and neighbours that are none of our business.
SPELLINGS = {f"x{a}scim{b}tenant" for a, b in itertools.product("-_.", repeat=2)}
SPELLINGS |= {f"x{a}scim{b}credential{c}id" for a, b, c in itertools.product("-_.", repeat=3)}
OTHERS = {"x-scim-tenants", "ax-scim-tenant", "x-scim-tenant-id", "x-request-id", "xascimatenant"}
ANNOTATION = "nginx.ingress.kubernetes.io/"


def of_kind(kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def find(kind, name, whose):
    expect(any(manifest["metadata"]["name"] == name for manifest in of_kind(kind)), f"{whose}: no {kind} {name}")


def check_service(name, number, whose):
    """Where an edge asks: our Service, by its name in the cluster, and at its port."""
    service, namespace, *rest = name.split(".")
    expect(not rest or rest == ["svc", "cluster", "local"], f"{whose}: {name} is no Service")
    expect((service, namespace, number) in offered, f"{whose}: no Service offers {name}:{number}")


def check_address(address, whose):
    parts = re.fullmatch(r"http://([^:/]+):(\d+)/", address or "")
    expect(parts, f"{whose}: {address} is no address of a Service")
    if parts:
        check_service(parts[1], int(parts[2]), whose)


def check_pattern(pattern, wanted, whose):
    found = {name for name in SPELLINGS | OTHERS | {"authorization"} if re.fullmatch(pattern, name)}
    expect(found == wanted, f"{whose}: {pattern} does not match {wanted - found}, and matches {found - wanted}")


def check_prefix(prefix, whose):
    expect(prefix == decision.get("prefix", "/check"), f"{whose}: {prefix} is not the prefix that proxy.yaml takes off")


def check_told(names, whose):
    expect({name.lower() for name in names} == IDENTITY, f"{whose}: the backend would be told {names}")


def check_middleware(manifest, whose):
    forward = manifest["spec"]["forwardAuth"]
    check_address(forward["address"], whose)
    # Go's expressions are searched for, and so need anchors; names come in Go's own spelling, which has capitals.
    pattern = forward["authResponseHeadersRegex"]
    expect(pattern.startswith("(?i)^") and pattern.endswith("$"), f"{whose}: {pattern} is not anchored, or minds the case")
    check_pattern(pattern, SPELLINGS | {"authorization"}, whose)


def check_ingress_route(manifest, whose):
    for route in manifest["spec"]["routes"]:
        for middleware in route["middlewares"]:
            find("Middleware", middleware["name"], whose)
        expect(f"PathPrefix(`{path}`)" in route["match"], f"{whose}: {route['match']} is not the path of proxy.yaml")


def check_http_route(manifest, whose):
    spec = manifest["spec"]
    for parent in spec["parentRefs"]:
        find("Gateway", parent["name"], whose)
        names = {listener["name"] for gateway in of_kind("Gateway") for listener in gateway["spec"]["listeners"]}
        expect(parent["sectionName"] in names, f"{whose}: no listener {parent['sectionName']}")
    hosts = {listener["hostname"] for gateway in of_kind("Gateway") for listener in gateway["spec"]["listeners"]}
    expect(set(spec["hostnames"]) <= hosts, f"{whose}: no listener for {spec['hostnames']}")
    for rule in spec["rules"]:
        expect([match["path"]["value"] for match in rule["matches"]] == [path], f"{whose}: its path is not that of proxy.yaml")
        expect(rule["backendRefs"] == [{"name": "scim", "port": 80}], f"{whose}: it goes to {rule['backendRefs']}, and not to the backend")
        for entry in rule.get("filters", []):
            find(entry["extensionRef"]["kind"], entry["extensionRef"]["name"], whose)
        expect(rule.get("filters") or of_kind("SecurityPolicy"), f"{whose}: nothing asks scim-guard")


def check_ingress(manifest, whose):
    given = {key.removeprefix(ANNOTATION): value for key, value in manifest["metadata"]["annotations"].items()}
    expect(given.keys() == {"auth-url", "auth-response-headers"}, f"{whose}: annotations {sorted(given)}")
    check_address(given.get("auth-url"), whose)
    names = {name.strip().lower() for name in given.get("auth-response-headers", "").split(",")}
    expect(names == IDENTITY | {"authorization"}, f"{whose}: auth-response-headers are {names}")
    paths = [entry["path"] for rule in manifest["spec"]["rules"] for entry in rule["http"]["paths"]]
    expect(paths == [path], f"{whose}: {paths} is not the path of proxy.yaml")


def check_security_policy(manifest, whose):
    for target in manifest["spec"]["targetRefs"]:
        find(target["kind"], target["name"], whose)
    http = manifest["spec"]["extAuth"]["http"]
    for reference in http["backendRefs"]:
        check_service(f"{reference['name']}.{manifest['metadata']['namespace']}", reference["port"], whose)
    check_prefix(http["path"], whose)
    check_told(http["headersToBackend"], whose)
    expect(of_kind("ClientTrafficPolicy"), f"{whose}: no ClientTrafficPolicy removes forged headers")


def check_client_traffic_policy(manifest, whose):
    for target in manifest["spec"]["targetRefs"]:
        find(target["kind"], target["name"], whose)
    (removed,) = manifest["spec"]["headers"]["earlyRequestHeaders"]["removeOnMatch"]
    check_pattern(removed["value"], SPELLINGS, whose)


def check_authorization_policies():
    """One asks about everything, one keeps out what is no HTTP, and a filter before them removes forged headers."""
    selector = {"matchLabels": {"app.kubernetes.io/name": "scim"}}
    specs = [manifest["spec"] for manifest in of_kind("AuthorizationPolicy")]
    asks = {"selector": selector, "action": "CUSTOM", "provider": {"name": "scim-guard"}, "rules": [{}]}
    expect(asks in specs, "istio: no AuthorizationPolicy asks about every request")
    keeps_out = {"selector": selector, "action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["*"]}}]}]}
    expect(keeps_out in specs, "istio: no AuthorizationPolicy keeps out what is no HTTP")
    (envoy_filter,) = of_kind("EnvoyFilter")
    expect(envoy_filter["spec"]["workloadSelector"] == {"labels": selector["matchLabels"]}, "EnvoyFilter: it is not for the backend")
    (patch,) = envoy_filter["spec"]["configPatches"]
    manager = {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}
    expect(patch["applyTo"] == "HTTP_FILTER" and patch["match"] == {"context": "SIDECAR_INBOUND", "listener": manager}, "EnvoyFilter: it is not for inbound HTTP")
    expect(patch["patch"]["operation"] == "INSERT_FIRST", "EnvoyFilter: it is not before the check")
    config = patch["patch"]["value"]["typed_config"]
    expect(config["@type"].endswith("/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"), "EnvoyFilter: it is no header_mutation")
    (mutation,) = config["mutations"]["request_mutations"]
    check_pattern(mutation["remove_on_match"]["key_matcher"]["safe_regex"]["regex"], SPELLINGS, "EnvoyFilter")


def check_policies():
    """Not all of the edge's namespace comes to scim-guard and to the backend, but the Pods that ask and forward."""
    admitted = {entry["port"] for manifest in of_kind("NetworkPolicy") for rule in manifest["spec"].get("ingress", []) for entry in rule["ports"]}
    expect({8082, 9000} <= admitted, f"NetworkPolicies admit {admitted}, and neither scim-guard nor the backend may be missing")
    for manifest in of_kind("NetworkPolicy"):
        for rule in manifest["spec"].get("ingress", []):
            if {8082, 9000} & {entry["port"] for entry in rule["ports"]}:
                expect(all("podSelector" in peer for peer in rule["from"]), f"NetworkPolicy {manifest['metadata']['name']}: it admits a whole namespace")
                if of_kind("SecurityPolicy"):
                    check_gateway_of_envoy(rule, f"NetworkPolicy {manifest['metadata']['name']}")


def check_gateway_of_envoy(rule, whose):
    """The Envoys of all Gateways are in one namespace, and a Gateway in another may have the name of ours."""
    (gateway,) = of_kind("Gateway")
    owner = "gateway.envoyproxy.io/owning-gateway-"
    ours = {f"{owner}{key}": gateway["metadata"][key] for key in ("name", "namespace")}
    expect(all(peer.get("podSelector") == {"matchLabels": ours} for peer in rule["from"]), f"{whose}: it admits other Gateways than ours")


def check_namespace():
    enforced = [manifest["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") for manifest in of_kind("Namespace")]
    expect(enforced == ["restricted"], "the namespace admits Pods with privileges, or is not there")
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    expect(any(manifest["spec"] == everything for manifest in of_kind("NetworkPolicy")), "no NetworkPolicy denies what no other allows")


def check_sidecars():
    """The backend's sidecar gets out to scim-guard and to istiod, and scim-guard has none."""
    ways = {(entry["protocol"], entry["port"]) for manifest in of_kind("NetworkPolicy") if manifest["metadata"]["name"] == "scim-backend-sidecar"
            for rule in manifest["spec"]["egress"] for entry in rule["ports"]}
    expect(ways == {("TCP", 8082), ("TCP", 15012), ("UDP", 53), ("TCP", 53)}, f"NetworkPolicy scim-backend-sidecar: its ways are {ways}")
    labels = [manifest["spec"]["template"]["metadata"]["labels"] for manifest in of_kind("Deployment")]
    expect(all(given.get("sidecar.istio.io/inject") == "false" for given in labels), "Deployment scim-guard: Istio may put a sidecar into it")


def check_mesh(content, whose):
    for provider in content["meshConfig"]["extensionProviders"]:
        names = {manifest["spec"].get("provider", {}).get("name") for manifest in of_kind("AuthorizationPolicy")}
        expect(provider["name"] in names, f"{whose}: no AuthorizationPolicy asks {provider['name']}")
        asked = provider["envoyExtAuthzHttp"]
        check_service(asked["service"], asked["port"], whose)
        check_prefix(asked["pathPrefix"], whose)
        check_told(asked["headersToUpstreamOnAllow"], whose)


def check_grant(content, whose):
    expect(content["metadata"]["namespace"] == "scim", f"{whose}: it is not beside the Service that it grants")
    for granted in content["spec"]["to"]:
        find(granted["kind"], granted["name"], whose)


CHECKS = {"Middleware": check_middleware, "IngressRoute": check_ingress_route, "HTTPRoute": check_http_route, "Ingress": check_ingress,
          "SecurityPolicy": check_security_policy, "ClientTrafficPolicy": check_client_traffic_policy}
LOOSE = {"mesh.yaml": (Mesh, check_mesh), "reference-grant.yaml": (ReferenceGrant, check_grant)}

folder, rendered = sys.argv[1:]
with open(rendered) as file:
    manifests = [manifest for manifest in yaml.safe_load_all(file) if manifest]
(config,) = [yaml.safe_load(manifest["data"]["proxy.yaml"]) for manifest in manifests if "proxy.yaml" in manifest.get("data", {})]
(decision,) = config["decision"]
(path,) = [route["path"] for route in config["proxy"]["routes"]]
offered = {(service["metadata"]["name"], service["metadata"]["namespace"], port["port"]) for service in of_kind("Service") for port in service["spec"]["ports"]}
expect({READERS[manifest["kind"]] for manifest in manifests if manifest["kind"] in READERS} == {decision["edge"]}, f"proxy.yaml: not the edge of {folder}")
for manifest in manifests:
    if manifest["kind"] in CHECKS:
        CHECKS[manifest["kind"]](manifest, f"{manifest['kind']} {manifest['metadata']['name']}")
    expect(manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "scim", f"{manifest['metadata']['name']}: not in the namespace scim")
check_policies()
check_namespace()
if of_kind("AuthorizationPolicy"):
    check_authorization_policies()
    check_sidecars()
loose = sorted(set(os.listdir(folder)) - {os.path.basename(name) for name in files_of(folder)})
for name in loose:
    model, check = LOOSE[name]
    with open(f"{folder}/{name}") as file:
        content = yaml.safe_load(file)
    try:
        model.model_validate(content)
        check(content, name)
    except ValidationError as error:
        expect(False, f"{name}: {error}")
    print(f"{folder}/{name}")
if of_kind("AuthorizationPolicy"):
    expect("mesh.yaml" in loose, "istio: no mesh.yaml names the provider")
end()
