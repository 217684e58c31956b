"""Lets a real Traefik read the rendered manifests of an edge, beside scim-guard and a backend, and asks it what it promises.

Arguments: the binary, the program traefik, the manifests, and a directory to work in. No cluster is needed: an API server
made of a few lines lists the objects to Traefik. Only addresses are changed, and the credentials, which come from a file.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from faults import PATIENCE, end, expect, wait_for
from standins import pair

HOST = "scim.example.com"
SPELLINGS = ("X_SCIM_Tenant", "x.scim.tenant", "X-SCIM_Credential.Id", "x_scim_credential_id")
# Who reads what, and what its users have beside the manifests. ingress-nginx itself can be had here only by its stand-in.
PROVIDERS = {
    "IngressRoute": ["--providers.kubernetescrd.endpoint=API"],
    "HTTPRoute": ["--providers.kubernetescrd.endpoint=API", "--providers.kubernetesgateway.endpoint=API"],
    "Ingress": ["--providers.kubernetesingressnginx.endpoint=API", "--providers.kubernetesingressnginx.httpsentrypoint=websecure"],
}


def start(handler):
    """Serves on a port of the kernel's choice, and returns it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def plural(kind):
    return kind.lower() + ("es" if kind.endswith("s") else "s")


def reserve():
    """A port that the kernel gives to nobody else while the socket lives, which never listens."""
    held = socket.socket()
    # Whoever listens there has this too.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    reserved.append(held)
    return held.getsockname()[1]


class Api(BaseHTTPRequestHandler):
    """Lists and watches, as much as Traefik's informers ask for. Nothing ever changes."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if "sendInitialEvents=true" in query:
            # A server that cannot send the list as events says so, and is asked for a list.
            self.answer(422, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422})
        elif "watch=" in query:
            self.answer(200, None)
            over.wait()
        else:
            items = [item for item in objects if plural(item["kind"]) == path.rpartition("/")[2]]
            self.answer(200, {"metadata": {"resourceVersion": "1"}, "items": items})

    def do_PUT(self):
        """Takes a status and gives it back."""
        self.answer(200, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if content:
            self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


class Backend(BaseHTTPRequestHandler):
    """Says what it was told."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        text = json.dumps({"method": self.command, "path": self.path, "headers": self.headers.items(), "body": body}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def endpoints(name, number):
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "scim", "uid": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": number, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True, "serving": True}}]}


def surroundings():
    """What stands in the cluster beside our manifests: the backend's Service, the certificate, the classes of the edges."""
    scim = {"name": "scim", "namespace": "scim"}
    files = {f"tls.{kind}": base64.b64encode(text.encode()).decode() for kind, text in pair().items()}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "scim"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": scim, "spec": {"ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": backend}]}},
        endpoints("scim", backend),
        {"apiVersion": "v1", "kind": "Secret", "metadata": scim | {"name": "scim-tls"}, "type": "kubernetes.io/tls", "data": files},
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "traefik"},
         "spec": {"controllerName": "traefik.io/gateway-controller"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}},
    ]


def complete(item):
    """Adds what an API server adds, of that what Traefik looks at, and moves a Gateway to the port that is free here."""
    item["metadata"] |= {"uid": item["metadata"]["name"], "resourceVersion": "1", "generation": 1}
    if item["kind"] == "Gateway":
        for listener in item["spec"]["listeners"]:
            expect(listener["port"] == 8443, "the Gateway does not listen where websecure of Traefik's chart does")
            listener["port"] = edge
            listener["allowedRoutes"] = {"namespaces": {"from": "Same"}}
            listener["tls"]["certificateRefs"] = [{"group": "", "kind": "Secret"} | entry for entry in listener["tls"]["certificateRefs"]]
    if item["kind"] == "HTTPRoute":
        spec = item["spec"]
        spec["parentRefs"] = [{"group": "gateway.networking.k8s.io", "kind": "Gateway"} | entry for entry in spec["parentRefs"]]
        for rule in spec["rules"]:
            rule["backendRefs"] = [{"group": "", "kind": "Service", "weight": 1} | entry for entry in rule["backendRefs"]]


def write(name, text):
    with open(f"{directory}/{name}", "w") as file:
        file.write(text)
    return f"{directory}/{name}"


def configure(config):
    """The shipped configuration at addresses of this machine, with one credential."""
    row = {"credential_id": "scimcred-demo00000001", "tenant": "z-demo00000000", "expire_time": "2999-01-01T00:00:00Z",
           "digest": f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"}
    config["decision"][0]["address"] = f"127.0.0.1:{decision}"
    if provider == "Ingress":
        config["decision"][0]["edge"] = "traefik"  # The headers that this reader of the Ingress asks with.
    config["credentials"] = {"source": "file", "file": {"path": write("credentials.yaml", yaml.safe_dump([row]))}}
    config["ops"]["listen"] = f"127.0.0.1:{reserve()}"
    return write("proxy.yaml", yaml.safe_dump(config))


def run(name, *command):
    output = open(f"{directory}/{name}.log", "w")
    processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))


def ask(headers, method="GET", path="/scim/v2/Users?filter=a%20eq%201", body=None):
    """The status, the headers and the text of an answer; 0 where there is none."""
    connection = http.client.HTTPSConnection(HOST, timeout=15)
    try:
        plain = socket.create_connection(("127.0.0.1", edge), timeout=15)
        connection.sock = ssl._create_unverified_context().wrap_socket(plain, server_hostname=HOST)
        if connection.sock.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(pair()["crt"]):
            return 0, {}, "not the certificate of the Secret"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    except OSError:
        return 0, {}, ""
    finally:
        connection.close()


def give_up(what):
    logs = "".join(open(f"{directory}/{name}.log").read()[-3000:] for name in ("guard", "traefik"))
    sys.exit(f"{manifests}: {what}\n{logs}")


def check_allowed(name, status, text):
    """The backend was asked, and told by us alone who comes."""
    expect(status == 200 and text.startswith("{"), f"{name}: {status} {text}")
    if status != 200:
        return {}
    heard = json.loads(text)
    told = sorted((key.lower(), value) for key, value in heard["headers"] if re.fullmatch(r"(?i)x[-_.]scim[-_.].*", key))
    expected = [("x-scim-credential-id", "scimcred-demo00000001"), ("x-scim-tenant", "z-demo00000000")]
    expect(told == expected, f"{name}: the backend was told {told}")
    expect("authorization" not in {key.lower() for key, _ in heard["headers"]}, f"{name}: the token went to the backend")
    return heard


def check_refused(name, answer, status):
    found, headers, text = answer
    expect(found == status and "application/scim+json" in headers.get("Content-Type", ""), f"{name}: {found} {text}")
    expect(status != 401 or headers.get("WWW-Authenticate", "").startswith("Bearer"), f"{name}: no challenge")


def check():
    bearer = {"Authorization": f"Bearer {token}"}
    wait_for("way for a valid token", lambda: ask(bearer)[0] == 200, give_up)
    status, _, text = ask(bearer | {"Content-Type": "application/scim+json"}, method="POST", path="/scim/v2/Users", body='{"userName":"a"}')
    heard = check_allowed("a valid token", status, text)
    expect([heard.get(key) for key in ("method", "path", "body")] == ["POST", "/scim/v2/Users", '{"userName":"a"}'], f"it was changed on its way: {heard}")
    forged = {"X-SCIM-Tenant": "forged", "X-SCIM-Credential-Id": "forged"}
    # nginx itself drops these; Traefik in its place does not.
    forged |= {spelling: "forged" for spelling in SPELLINGS} if provider != "Ingress" else {}
    status, _, text = ask(bearer | forged)
    check_allowed("forged identity headers", status, text)
    status, _, text = ask(bearer | {"Connection": "close, X-SCIM-Tenant, X-SCIM-Credential-Id"})
    check_allowed("identity headers named as hop-by-hop", status, text)
    elsewhere = {"X-Forwarded-Method": "DELETE", "X-Forwarded-Uri": "/other", "X-Original-Method": "DELETE", "X-Original-URI": "/other"}
    status, _, text = ask(bearer | elsewhere | {"X-Original-URL": "https://elsewhere/other", "X-Forwarded-Host": "elsewhere"})
    check_allowed("a forged original request", status, text)
    check_refused("no token", ask({}), 401)
    check_refused("no token, and a forged identity", ask(forged), 401)
    check_refused("an unknown token", ask({"Authorization": f"Bearer {secrets.token_urlsafe()}"}), 401)
    expect(ask(bearer, path="/other")[0] == 404, "what the manifests do not route is routed")
    processes[0].terminate()
    processes[0].wait(PATIENCE)
    for name, headers in (("a valid token", bearer), ("no token", {})):
        status, _, text = ask(headers)
        expect(status >= 500 and not text.startswith("{"), f"{name} while scim-guard is away: {status}")


binary, traefik, manifests, directory = sys.argv[1:]
os.makedirs(directory)
reserved = []
backend, decision, edge, over = start(Backend), reserve(), reserve(), threading.Event()
with open(manifests) as file:
    text = file.read().replace("scim-guard.scim.svc.cluster.local:8082", f"127.0.0.1:{decision}")
rendered = [manifest for manifest in yaml.safe_load_all(text) if manifest]
provider = next(kind for kind in PROVIDERS if any(manifest["kind"] == kind for manifest in rendered))
token = secrets.token_urlsafe()
(config,) = [manifest["data"]["proxy.yaml"] for manifest in rendered if "proxy.yaml" in manifest.get("data", {})]
objects = [manifest for manifest in rendered if manifest["kind"] in (*PROVIDERS, "Middleware", "Gateway")] + surroundings()
for item in objects:
    complete(item)
api = f"http://127.0.0.1:{start(Api)}"
processes = []
try:
    run("guard", binary, "serve", "--config", configure(yaml.safe_load(config)))
    flags = [flag.replace("API", api) for flag in PROVIDERS[provider]]
    run("traefik", traefik, f"--entrypoints.websecure.address=127.0.0.1:{edge}", "--global.checknewversion=false", *flags)
    check()
finally:
    for process in processes:
        process.kill()
        process.wait()
end()
