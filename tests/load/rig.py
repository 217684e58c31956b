"""What the load runs share: servers of ours on loopback, each with its own cores, and tokens."""

import contextlib
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import secrets
import shutil
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SCIM_GUARD_BINARY", f"{ROOT}/target/static/scim-guard")
OHA = os.environ.get("OHA", f"{ROOT}/target/load/bin/oha")

# The proxy has a core for itself where there are two, so that its CPU time is not stretched by the load generator.
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORES, LOAD_CORES = (CORES[:1], CORES[1:]) if len(CORES) > 1 else (CORES, CORES)

TENANT = "z-load00000000"
START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 20

USER = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "id": "2819c223", "userName": "bjensen@example.com", "active": True}


class Failure(Exception):
    pass


def program(name):
    """Daemons of Debian are not in everybody's path."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


NGINX = program("nginx")


def check_programs(*programs):
    for wanted in programs:
        if wanted is None or not os.access(wanted, os.X_OK):
            raise Failure(f"{wanted or 'a program'} is lacking: see tests/load/README.md")


def list_of(count):
    return json.dumps({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
        "totalResults": count, "itemsPerPage": count, "startIndex": 1, "Resources": [USER] * count,
    })


LIST = list_of(1)


class Server:
    """A process of ours that answers on a port of loopback."""

    def __init__(self, child, errors):
        self.child = child
        self.errors = errors
        self.port = None

    def check_alive(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.child.args[0]} ended with {self.child.returncode}: {self.errors.read_text()[-4000:]}")

    def cpu_seconds(self):
        """User and system time, to clock ticks of 10 ms; its workers' too."""
        pid = self.child.pid
        workers = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(cpu_ticks(process) for process in [pid, *workers]) / os.sysconf("SC_CLK_TCK")


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


@contextlib.contextmanager
def start(command, output, errors, cores, **options):
    with open(output, "wb") as stdout, open(errors, "wb") as stderr:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=lambda: os.sched_setaffinity(0, cores), **options)
    try:
        yield Server(child, errors)
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def run(command, seconds_max):
    """A load generator's output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds_max, preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORES))
    if done.returncode != 0:
        raise Failure(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def start_nginx(prefix, cores, listeners, http):
    """nginx on sockets that listen already; `http` is the inside of that block of its configuration."""
    prefix.mkdir()
    paths = " ".join(f"{kind}_temp_path {prefix}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    config = prefix / "nginx.conf"
    config.write_text(f"""
        daemon off; worker_processes 1; pid {prefix}/pid; error_log stderr; {user}
        events {{ worker_connections 1024; }}
        http {{ keepalive_requests 1000000000; {paths} {http} }}
    """)
    # nginx takes over listening sockets that it finds in this variable: so the kernel can choose the port, and nobody else gets it.
    descriptors = [listener.fileno() for listener in listeners]
    inherited = {"env": {**os.environ, "NGINX": "".join(f"{it};" for it in descriptors)}, "pass_fds": descriptors}
    command = [NGINX, "-p", prefix, "-c", config, "-e", "stderr"]
    with start(command, os.devnull, prefix / "errors", cores, **inherited) as server:
        for listener in listeners:
            listener.close()
        yield server


@contextlib.contextmanager
def start_list_backend(directory):
    """nginx that answers every request with the same SCIM list, faster than any real SCIM server."""
    with listen() as listener:
        port = port_of(listener)
        with start_nginx(directory / "nginx", LOAD_CORES, [listener], f"""
            access_log off;
            server {{
                listen 127.0.0.1:{port};
                location / {{ default_type application/scim+json; return 200 '{LIST}'; }}
            }}
        """) as backend:
            backend.port = port
            status, body = ask(port, "/scim/v2/Users")
            if (status, body) != (200, LIST):
                raise Failure(f"the backend answered {status}: {body}")
            yield backend


def listen():
    return socket.create_server(("127.0.0.1", 0), backlog=511)


def port_of(listener):
    return listener.getsockname()[1]


@contextlib.contextmanager
def start_proxy(directory, backend_port, tokens, tls=""):
    """The shipped binary with one worker, its log and its metrics on."""
    credentials = directory / "credentials.yaml"
    credentials.write_text("".join(credential_row(number, token) for number, token in enumerate(tokens)))
    config = directory / "proxy.yaml"
    config.write_text(f"""
proxy:
  listeners: [{{ address: "127.0.0.1:0" }}{tls and f', {{ address: "127.0.0.1:0", tls: {tls} }}'}]
  workers: 1
  drain: {{ delay: 0s, deadline: 5s }}
  routes:
    - tenant: {TENANT}
      path: /scim/v2
      upstream: {{ url: "http://127.0.0.1:{backend_port}/scim/v2" }}
credentials: {{ source: file, file: {{ path: {credentials} }} }}
ops: {{ listen: "127.0.0.1:0" }}
log: {{ level: info, format: json, access: true }}
""")
    with start([BINARY, "serve", "--config", config], directory / "access.log", directory / "proxy.log", PROXY_CORES) as proxy:
        ports = listening(proxy, "proxy", 2 if tls else 1)
        proxy.port, proxy.tls_port = ports[0], ports[-1]
        wait_until_ready(proxy, listening(proxy, "ops", 1)[0])
        yield proxy


def listening(server, face, count):
    """The ports that the kernel gave to this face, as the proxy's own log tells them."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        server.check_alive()
        ports = []
        # What follows the last newline may be half a line.
        for line in server.errors.read_text().split("\n")[:-1]:
            try:
                record = json.loads(line)
            except ValueError:
                raise Failure(f"the proxy's log has a line that is not JSON: {line}") from None
            if record.get("message") == "listening" and record.get("face") == face:
                ports.append(int(record["address"].rpartition(":")[2]))
        if len(ports) == count:
            return ports
        time.sleep(0.02)
    raise Failure(f"the proxy does not say where {face} listens: {server.errors.read_text()[-4000:]}")


def wait_until_ready(server, ops_port):
    deadline = time.monotonic() + START_SECONDS_MAX
    while (answer := ask(ops_port, "/readyz"))[0] != 200:
        server.check_alive()
        if time.monotonic() > deadline:
            raise Failure(f"the proxy is not ready: {answer}")
        time.sleep(0.02)


def ask(port, path, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def oha(seconds, connections, token, status, *options, unsent_max=0):
    """oha's report, if all answers had this status. Over HTTP/2 it counts as an error what it was about to send when a GOAWAY told it
    to send no more; so many of these there may be."""
    # -w: without it, requests that the end of the run cuts off count as errors.
    output = run([OHA, "-z", f"{seconds}s", "-w", "-c", str(connections), "--no-tui", "--output-format", "json",
                  "-H", f"Authorization: Bearer {token}", *options], seconds + 60)
    report = json.loads(output)
    answers, errors = report["statusCodeDistribution"], report["errorDistribution"]
    unsent = errors.pop("operation was canceled", 0)
    if errors or unsent > unsent_max or set(answers) != {str(status)}:
        raise Failure(f"every answer should have been {status}: answers {answers}, errors {errors}, unsent {unsent}")
    return report, answers[str(status)]


def new_token():
    return secrets.token_urlsafe(32)


def credential_id(number):
    return f"scimcred-load{number:08}"


def credential_row(number, token):
    expire_time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    digest = hashlib.sha256(token.encode()).hexdigest()
    return (f"- {{ credential_id: {credential_id(number)}, tenant: {TENANT}, digest: 'sha256:{digest}', "
            f"status: Enabled, expire_time: {expire_time:%Y-%m-%dT%H:%M:%SZ} }}\n")
