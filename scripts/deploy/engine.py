"""podman and what surrounds its containers. `CONTAINERS_CONF` and `CONTAINERS_STORAGE_CONF` name its configuration."""

import http.client
import json
import pathlib
import subprocess
import sys

import faults
from faults import PATIENCE


def run(*command, check=True):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if check and done.returncode:
        give_up(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def podman(*arguments, check=True):
    return run("podman", *arguments, check=check)


def give_up(what):
    """What becomes of the containers and what they have said tells why."""
    print(podman("ps", "--all", check=False).stdout, file=sys.stderr)
    for name in podman("ps", "--all", "--format", "{{.Names}}", check=False).stdout.split():
        logs = podman("logs", "--tail", "20", name, check=False)
        print(f"--- {name}:\n{logs.stdout[-2000:]}{logs.stderr[-2000:]}", file=sys.stderr)
    sys.exit(what)


def wait_for(what, question):
    return faults.wait_for(what, question, give_up)


def ask(token, path="/scim/v2/Users"):
    """Status and body of a request through the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def create(container, config):
    """Token and id of a credential that the admin API in a container has made."""
    made = podman("exec", container, "/scim-guard", "credential", "create", "--config", config, "--label", "okta", "--expires", "1y", "--output", "json")
    made = json.loads(made.stdout)
    return made["secret"], made["credential_id"]


def process(container):
    return pathlib.Path("/proc") / podman("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
