"""Runs the image as an orchestrator does: unprivileged, its root read-only, its config mounted, its data on a volume.

Arguments: a directory to work in, and the image. Must be started in a network of its own.
"""

import http.server
import json
import os
import pathlib
import socket
import ssl
import struct
import sys
import threading
import time

from engine import ask, create, podman, process, run, wait_for
from faults import end, expect
from standins import pair

WORK, IMAGE = pathlib.Path(sys.argv[1]), sys.argv[2]
USER = 65532
LOCKED_DOWN = ["--user", f"{USER}:{USER}", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
               "--pids-limit", "256", "--memory", "128m"]
CONFIG = "/etc/scim-guard/proxy.yaml"
DRAIN_SECONDS = 3
PROXY = f"""
proxy:
  listeners: [{{ address: 0.0.0.0:8080 }}]
  drain: {{ delay: 1s, deadline: {DRAIN_SECONDS - 1}s }}
  routes:
    - {{ tenant: z-demo00000000, path: /scim/v2, upstream: {{ url: "http://backend.test:9000/scim/v2" }} }}
    - {{ tenant: z-demo00000000, path: /secure/v2, upstream: {{ url: "https://backend.test:9443/scim/v2" }} }}
credentials: {{ source: embedded }}
admin: {{ listen: 127.0.0.1:8081, store: sqlite:/var/lib/scim-guard/admin.db }}
ops: {{ listen: 127.0.0.1:9090 }}
"""


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with the identity that it was given."""

    def do_GET(self):
        seen = json.dumps({"id": self.headers["X-SCIM-Credential-Id"], "authorization": self.headers["Authorization"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/scim+json")
        self.send_header("Content-Length", str(len(seen)))
        self.end_headers()
        self.wfile.write(seen)

    def log_message(self, *_):
        pass


def serve_backends():
    for kind, text in pair("backend.test").items():
        (WORK / f"tls.{kind}").write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(WORK / "tls.crt", WORK / "tls.key")
    for port in (9000, 9443):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Backend)
        if port == 9443:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_names():
    """A name server that knows the backend's address, which is no IPv6 one, and nothing else."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 53))
    asked = b"\7backend\4test\0"

    def serve():
        while True:
            query, client = listener.recvfrom(512)
            question = query[12:query.index(b"\0", 12) + 5]
            (kind,) = struct.unpack("!H", question[-4:-2])
            known = question[:-4].lower() == asked
            answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1") if known and kind == 1 else b""
            head = query[:2] + struct.pack("!HHHHH", 0x8580 if known else 0x8583, 1, bool(answer), 0, 0)
            listener.sendto(head + question + answer, client)

    threading.Thread(target=serve, daemon=True).start()


def is_ready():
    return podman("exec", "guard", "/scim-guard", "health", "--ready", "--config", CONFIG, check=False).returncode == 0


def lay_out():
    """A config that all may read, and a volume as Kubernetes gives it: root's, and the group's by fsGroup."""
    config, data = WORK / "config", WORK / "data"
    config.mkdir()
    (config / "proxy.yaml").write_text(PROXY)
    # It would leave out the name server, if it were obeyed.
    (WORK / "nsswitch.conf").write_text("hosts: files\n")
    data.mkdir()
    os.chown(data, 0, USER)
    data.chmod(0o2770)
    return config, data


def check_process():
    """As what the kernel runs it, whatever was asked for."""
    seen = process("guard")
    status = dict(line.split(":\t", 1) for line in (seen / "status").read_text().splitlines() if ":\t" in line)
    expect(set(status["Uid"].split()) == set(status["Gid"].split()) == {str(USER)}, f"runs as {status['Uid']}, {status['Gid']}")
    expect(all(int(status[kind], 16) == 0 for kind in ("CapEff", "CapPrm", "CapBnd")), f"has capabilities {status['CapEff']}")
    expect(status["NoNewPrivs"].strip() == "1", "may get new privileges")
    mounts = [line.split() for line in (seen / "mountinfo").read_text().splitlines()]
    expect(any(mount[4] == "/" and mount[5].startswith("ro") for mount in mounts), "its root can be written to")


def check_requests(token, credential_id):
    for path in ("/scim/v2/Users", "/secure/v2/Users"):
        status, body = ask(token, path)
        expect(status == 200 and json.loads(body) == {"id": credential_id, "authorization": None}, f"{path}: {status} {body}")
    status, body = ask("unknown-token-0123456789")
    expect(status == 401, f"an unknown token: {status} {body}")


def stop():
    """A drain that takes longer than it may ends in a signal that nobody survives."""
    podman("stop", "--time", str(DRAIN_SECONDS + 5), "guard")
    code = podman("inspect", "--format", "{{.State.ExitCode}}", "guard").stdout.strip()
    expect(code == "0", f"SIGTERM: exit {code}")


run("ip", "link", "set", "lo", "up")
serve_backends()
serve_names()
config, data = lay_out()
begun = time.monotonic()
podman("run", "--detach", "--name", "guard", "--network", "host", "--dns", "127.0.0.1", *LOCKED_DOWN,
       # Instead of the image's own certificates, which do not know this backend.
       "--env", "SSL_CERT_FILE=/etc/tls/tls.crt", "--volume", f"{WORK / 'tls.crt'}:/etc/tls/tls.crt:ro",
       "--volume", f"{WORK / 'nsswitch.conf'}:/etc/nsswitch.conf:ro", "--volume", f"{config}:/etc/scim-guard:ro", "--volume", f"{data}:/var/lib/scim-guard", IMAGE)
wait_for("readiness", is_ready)
print(f"container: ready after {time.monotonic() - begun:.1f} s")
check_process()
token, credential_id = create("guard", CONFIG)
check_requests(token, credential_id)
stop()
podman("start", "guard")
wait_for("readiness after a restart", is_ready)
check_requests(token, credential_id)
stop()
podman("rm", "guard")
end()
