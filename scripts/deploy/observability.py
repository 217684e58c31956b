"""Starts the binary with one of everything that makes series, and Prometheus with our rules beside it; holds rules, tests,
dashboard and runbooks against what it has scraped.

Arguments: the folder, the binary, and a directory to work in.
"""

import hashlib
import http.client
import http.server
import itertools
import json
import pathlib
import re
import ssl
import socket
import subprocess
import sys
import threading
import urllib.parse

from faults import end, expect, wait_for
from standins import pair

folder, binary, work = map(pathlib.Path, sys.argv[1:])
LIVE, DISABLED, UNKNOWN = ("observed-live-token-0123456789", "observed-disabled-token-0123456789", "observed-unknown-token-0123456789")
# As long as it takes Prometheus to see two samples of each series, twice.
RATE_INTERVAL = "4s"


class Process:
    """A program that ends with this one. What it writes goes to a file."""

    running = []

    def __init__(self, name, *command):
        self.name, self.log = name, work / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        Process.running.append(self.process)

    def address(self, pattern):
        def told():
            if self.process.poll() is not None:
                sys.exit(f"{self.name} has ended:\n{self.log.read_text()}")
            return re.search(pattern, self.log.read_text())
        return wait_for(f"{self.name} that listens", told)[1]


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def get(address, path, token=None, tls=None, posted=None):
    """Status and body."""
    connection = http.client.HTTPSConnection(address, context=tls) if tls else http.client.HTTPConnection(address)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if posted:
        headers["Content-Type"] = "application/json"
    connection.request("POST" if posted else "GET", path, body=posted, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def credential(name, token, more=""):
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f"- {{ credential_id: {name}, tenant: z-observed, digest: 'sha256:{digest}', expire_time: 2099-01-01T00:00:00Z{more} }}\n"


class Guard:
    def __init__(self):
        backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        for name in ("tls", "client"):
            for kind, text in pair(name).items():
                (work / f"{name}.{kind}").write_text(text)
        self.file = work / "credentials.yaml"
        self.file.write_text(credential("c-live", LIVE) + credential("c-disabled", DISABLED, ", status: Disabled"))
        (work / "proxy.yaml").write_text(f"""
proxy:
  listeners: [{{ address: "127.0.0.1:0" }}]
  routes:
    - {{ tenant: z-observed, path: /scim, upstream: {{ url: "http://127.0.0.1:{backend.server_port}/scim" }} }}
    - {{ tenant: z-observed, path: /gone, upstream: {{ url: "unix:{work}/nobody.sock:/", connect_wait: 50ms }} }}
credentials: {{ source: file, refresh: 1s, file: {{ path: credentials.yaml }} }}
admin:
  listen: 127.0.0.1:0
  store: sqlite:./admin.db
  tls: {{ certificate: tls.crt, private_key: tls.key, client_ca: tls.crt, client_auth: optional }}
ops: {{ listen: "127.0.0.1:0" }}
""")
        process = Process("scim-guard", binary, "serve", "--config", work / "proxy.yaml")
        faces = (process.address(rf'"message":"listening".*"face":"{face}".*"address":"([^"]+)"') for face in ("proxy", "admin", "ops"))
        self.proxy, self.admin, self.ops = faces

    def make_series(self):
        """One request of each kind, the undecided one last: for it the table must be lost sight of."""
        wait_for("table", lambda: get(self.ops, "/readyz")[0] == 200)
        for path, token, status in (("/scim/Users", LIVE, 200), ("/scim/Users", DISABLED, 401), ("/scim/Users", UNKNOWN, 401),
                                    ("/gone/Users", LIVE, 503)):
            answer = get(self.proxy, path, token)
            expect(answer[0] == status, f"{path}: {answer}")
        host, port = self.proxy.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"no HTTP\r\n\r\n")
            stranger.recv(1)
        tls = ssl._create_unverified_context()
        tls.load_cert_chain(work / "client.crt", work / "client.key")
        try:
            get(self.admin, "/v1/replicas", tls=tls)
            expect(False, "a client's certificate that nobody knows was believed")
        except OSError:
            pass
        tls = ssl._create_unverified_context()
        token = (work / "admin.token").read_text().strip()
        for token, status in ((token, 200), (UNKNOWN, 401)):
            answer = get(self.admin, "/v1/replicas", token, tls)
            expect(answer[0] == status, f"/v1/replicas: {answer}")
        answer = get(self.admin, "/v1/backup", (work / "admin.token").read_text().strip(), tls, '{"path": "/nowhere/at/all"}')
        expect(answer[0] == 503, f"/v1/backup: {answer}")
        self.file.write_text("lost\n")
        wait_for("undecided request", lambda: get(self.proxy, "/scim/Users", UNKNOWN)[0] == 503)


class Prometheus:
    def __init__(self, target):
        (work / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str((folder / "rules.yaml").resolve())],
            "scrape_configs": [{"job_name": "scim-guard", "static_configs": [{"targets": [target]}]}],
        }))
        process = Process("prometheus", "prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
                          "--web.listen-address=127.0.0.1:0")
        self.address = process.address(r'msg="Listening on" address=(\S+)')
        wait_for("ready Prometheus", lambda: get(self.address, "/-/ready")[0] == 200)

    def ask(self, path, **parameters):
        """What stands under `data`, or the error's text in its place."""
        body = json.loads(get(self.address, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")[1])
        return body["data"] if body["status"] == "success" else body["error"]

    def series(self, name):
        return self.ask("series", **{"match[]": f'{{__name__="{name}"}}'})


STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "Inf", "NaN"}
LABELS = re.compile(r"\b(?:by|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r'([a-zA-Z_:][\w:]*)\s*\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}')
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


def names_of(expr):
    bare = re.sub(r"\{[^}]*\}", "", STRINGS.sub("", expr))
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", re.sub(r"\[[^]]*\]", "", bare))
    bare = re.sub(r"\boffset\s+\w+", "", bare)
    return {word for word in re.findall(r"(?<![\w.:])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()", bare) if word not in WORDS}


def check_words(place, expr, labels_shown=()):
    """Names, labels and values that an expression uses are among those that were scraped, or stand in the source."""
    known = set()
    for name in names_of(expr):
        series = prometheus.series(name)
        expect(series, f"{place}: there is no metric {name}")
        known |= {label for one in series for label in one}
    for label in itertools.chain(labels_shown, *(re.findall(r"\w+", labels) for labels in LABELS.findall(expr))):
        expect(label in known, f"{place}: no metric here has a label {label}")
    for name, matchers in SELECTOR.findall(expr):
        series = prometheus.series(name)
        for label, operator, value in MATCHER.findall(matchers):
            values = {one.get(label) for one in series}
            expect(values != {None}, f"{place}: {name} has no label {label}")
            if operator == "=":
                expect(value in values, f"{place}: no {name} has {label}={value}")
            elif operator in ("=~", "!~") and value != ".*":
                pattern_words = [word for word in value.split("|") if re.fullmatch(r"\w+", word)]
                expect(all(f'"{word}"' in source for word in pattern_words), f"{place}: not in src: one of {pattern_words}")


def check_dashboard():
    """Returns each expression with its place, as it is asked for."""
    dashboard = json.loads((folder / "dashboard.json").read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    expect(variables.get("datasource", {}).get("type") == "datasource", "dashboard: no variable for the data source")
    filled = lambda text: re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda it: fill[it[1] or it[2]], text)
    fill = {"__rate_interval": RATE_INTERVAL} | {name: ".*" for name in variables}
    asked, ids, places = [], set(), set()
    for panel in dashboard["panels"]:
        title, grid = f"dashboard: {panel['title']}", panel["gridPos"]
        expect(panel["id"] not in ids, f"{title}: its id is another's")
        ids.add(panel["id"])
        squares = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        expect(not squares & places and grid["x"] + grid["w"] <= 24, f"{title}: not where there is room")
        places |= squares
        expect(panel["type"] == "row" or panel["targets"], f"{title}: asks for nothing")
        for target in panel.get("targets", []):
            expect(target["datasource"]["uid"] == "${datasource}", f"{title}: another data source")
            try:
                asked.append((title, filled(target["expr"]), re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"])))
            except KeyError as unknown:
                expect(False, f"{title}: there is no variable {unknown}")
    rules = [{"record": f"panel_{number}", "expr": expr} for number, (_, expr, _) in enumerate(asked)]
    (work / "dashboard-rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", work / "dashboard-rules.yaml"], capture_output=True, text=True)
    expect(checked.returncode == 0, f"dashboard: {checked.stdout}{checked.stderr}")
    for name, variable in variables.items():
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            check_words(f"dashboard: variable {name}", filled(selector), [label])
    return asked


def check_panels(asked):
    for title, expr, labels_shown in asked:
        check_words(title, expr, labels_shown)
        answer = prometheus.ask("query", query=expr)
        if isinstance(answer, str):
            expect(False, f"{title}: {answer}: {expr}")
        else:
            expect(answer["result"], f"{title}: finds nothing: {expr}")


def check_rules():
    tests = (folder / "rules.test.yaml").read_text()
    runbooks = pathlib.Path("docs/runbooks.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbooks, re.M | re.S))
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    for rule in rules:
        expect(rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError', 'never evaluated')}")
        check_words(rule["name"], rule["query"])
    for alert in alerts:
        name, annotations = alert["name"], alert["annotations"]
        expect(alert["labels"].get("severity") in ("info", "warning", "critical"), f"{name}: no severity that we use")
        expect(annotations.keys() == {"summary", "description", "runbook"}, f"{name}: annotations are {sorted(annotations)}")
        expect(annotations.get("runbook") == f"docs/runbooks.md#{name.lower()}", f"{name}: its runbook is elsewhere")
        expect(name in sections, f"{name}: has no section in docs/runbooks.md")
        fired = re.findall(rf'ALERTS\{{alertname="{name}",alertstate="firing",([^}}]*)\}}', tests)
        expect(fired, f"{name}: fires in no test")
        labels = {label for samples in fired for label, _, _ in MATCHER.findall(samples)}
        for label in re.findall(r"\$labels\.(\w+)", " ".join(annotations.values())):
            expect(label in labels, f"{name}: shows a label {label} that it does not have")
    for name in sections.keys() - {alert["name"] for alert in alerts}:
        expect(False, f"docs/runbooks.md: no alert is called {name}")
    check_patience(groups, alerts)


def check_patience(groups, alerts):
    """The tests notice an alert that is told at once, or where it should be, later."""
    (work / "rules.test.yaml").write_text((folder / "rules.test.yaml").read_text())

    def written(rule):
        if rule["type"] == "recording":
            return {"record": rule["name"], "expr": rule["query"]}
        return {"alert": rule["name"], "expr": rule["query"], "labels": rule["labels"], "for": "0s" if rule["duration"] else "2m"}

    changed = [{"name": group["name"], "rules": [written(rule) for rule in group["rules"]]} for group in groups]
    (work / "rules.yaml").write_text(json.dumps({"groups": changed}))
    told = subprocess.run(["promtool", "test", "rules", work / "rules.test.yaml"], capture_output=True, text=True)
    noticed = set()
    for expected, got in re.findall(r"^ *exp: *(.*)\n *got: *(.*)$", told.stdout + told.stderr, re.M):
        noticed |= set(re.findall(r"\{[^}]*\}", expected)) ^ set(re.findall(r"\{[^}]*\}", got))
    for alert in alerts:
        name = alert["name"]
        expect(any(f'alertname="{name}"' in sample for sample in noticed), f"{name}: no test minds how long it waits")


def check_scrape(ops):
    text = get(ops, "/metrics")[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    expect(checked.returncode == 0 and not checked.stderr, f"/metrics: {checked.stdout}{checked.stderr}")
    scraped = set(re.findall(r"^# TYPE scim_guard_(\w+) ", text, re.M))
    # A family without a series is not in the text: each must be, or what is said of it here has not been looked at.
    metrics = pathlib.Path("src/telemetry/metrics.rs").read_text()
    registered = set(re.findall(r'\bmake\s*\.\w+\(\s*"(\w+)"', metrics))
    expect(scraped == registered, f"scraped and registered differ: {sorted(scraped ^ registered)}")


try:
    source = "".join(path.read_text() for path in pathlib.Path("src").rglob("*.rs"))
    guard = Guard()
    prometheus = Prometheus(guard.ops)
    guard.make_series()
    check_scrape(guard.ops)
    undecided = 'count_over_time(scim_guard_requests_total{outcome="undecided"}[4s]) >= 3'
    wait_for("third sample of all series", lambda: prometheus.ask("query", query=undecided)["result"])
    asked = check_dashboard()
    check_panels(asked)
    check_rules()
finally:
    for process in Process.running:
        process.kill()
        process.wait()
end()
