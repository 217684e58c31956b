"""Drives the shipped units, in the container of scripts/check-service, as an operator does."""

import http.client
import http.server
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import threading
import time

import faults
from faults import PATIENCE, end, expect

CONFIG = pathlib.Path("/etc/scim-guard/proxy.yaml")
SERVICE = "scim-guard.service"


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}{journal()}")
    return done.stdout


def journal():
    return subprocess.run(["journalctl", "--no-pager", "--unit", SERVICE], stdout=subprocess.PIPE, text=True).stdout


def shown(key):
    return run("systemctl", "show", "--value", "--property", key, SERVICE).strip()


def give_up(what):
    status = subprocess.run(["systemctl", "status", SERVICE], stdout=subprocess.PIPE, text=True).stdout
    sys.exit(f"{what}: {status}{journal()}")


def wait_for(what, question):
    return faults.wait_for(what, question, give_up)


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(token):
    context = ssl.create_default_context(cafile="/etc/scim-guard/tls/tls.crt")
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", 8443, timeout=PATIENCE, context=context)
    try:
        connection.request("GET", "/scim/v2/Users", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


class Traffic:
    """Asks again and again, on a new connection each time."""

    def __init__(self, token):
        self.answers, self.stopped = [], False
        self.thread = threading.Thread(target=self.run, args=(token,))
        self.thread.start()

    def run(self, token):
        while not self.stopped:
            try:
                self.answers.append(ask(token))
            except OSError as error:
                self.answers.append(error)

    def stop(self):
        self.stopped = True
        self.thread.join()
        return self.answers


threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", 9000), Backend).serve_forever, daemon=True).start()
run("systemctl", "start", "scim-guard.socket", SERVICE)
expect(shown("StatusText") == "serving", f"started, with status {shown('StatusText')}")
made = json.loads(run("scim-guard", "credential", "create", "--config", str(CONFIG), "--label", "entra", "--expires", "1y", "--output", "json"))
token = made["secret"]
expect(ask(token) == 204, f"a live token: {ask(token)}")
expect(ask("unknown-token-0123456789") == 401, f"an unknown token: {ask('unknown-token-0123456789')}")
owner = pathlib.Path(f"/proc/{shown('MainPID')}").stat().st_uid
expect(owner >= 61184, f"runs as {owner}, not as a dynamic user")

config = CONFIG.read_text()
for text, expected in ((config, "serving"), (config + "sections: unknown\n", "serving; config not reloaded: "), (config, "serving")):
    CONFIG.write_text(text)
    run("systemctl", "reload", SERVICE)
    # With the end of its sentence, or exactly.
    wait_for(f"status {expected}", lambda: (status := shown("StatusText")) == expected or (expected.endswith(": ") and status.startswith(expected)))
    expect(shown("ActiveState") == "active", f"after a reload: {shown('ActiveState')}")

traffic = Traffic(token)
before = shown("MainPID")
wait_for("traffic", lambda: len(traffic.answers) > 10)
run("systemctl", "restart", SERVICE)
seen = len(traffic.answers)
wait_for("more traffic", lambda: len(traffic.answers) > seen + 10)
answers = traffic.stop()
expect(set(answers) == {204}, f"while it was restarted: {set(answers)}")
expect(shown("MainPID") != before, "it was not restarted")

# The watchdog as shipped, only sooner.
drop_in = pathlib.Path(f"/run/systemd/system/{SERVICE}.d/soon.conf")
drop_in.parent.mkdir(parents=True)
drop_in.write_text("[Service]\nWatchdogSec=2s\n")
run("systemctl", "daemon-reload")
run("systemctl", "restart", SERVICE)
expect(shown("WatchdogUSec") == "2s", f"watchdog {shown('WatchdogUSec')}")
hung = shown("MainPID")
# Longer than the watchdog's patience.
time.sleep(3)
expect(shown("MainPID") == hung, "one that works was taken for one that hangs")
os.kill(int(hung), signal.SIGSTOP)
wait_for("new process in the place of one that hangs", lambda: shown("MainPID") not in (hung, "0") and shown("ActiveState") == "active")
expect(ask(token) == 204, "the new process does not serve")

run("systemctl", "stop", SERVICE)
expect(shown("Result") == "success" and shown("ExecMainStatus") == "0", f"stopped: {shown('Result')}, exit {shown('ExecMainStatus')}")
print("service: started, reloaded, restarted under load, replaced when it hung, stopped")
end()
