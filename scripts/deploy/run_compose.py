"""Starts deploy/compose, follows the comment at its head, and stops it.

Argument: a directory that holds a copy of the project and in which its images are known. Must be started in a network of its own.
"""

import pathlib
import sys

from engine import ask, create, podman, run, wait_for
from faults import end, expect

FOLDER = pathlib.Path(sys.argv[1]) / "deploy/compose"
COMPOSE = [sys.executable, "-m", "podman_compose", "--file", FOLDER / "compose.yaml"]
SERVICES = ("admin", "proxy")


def is_healthy(service):
    """Asks as the service's own probe does: what would ask every few seconds needs systemd."""
    return podman("healthcheck", "run", f"scim-guard_{service}_1", check=False).returncode == 0


run("ip", "link", "set", "lo", "up")
secrets = FOLDER / "secrets"
secrets.mkdir()
(secrets / "replica.token").write_text("replica-token-0123456789012345678901\n")
run(*COMPOSE, "up", "--no-build", "--detach")
for service in SERVICES:
    wait_for(f"health of {service}", lambda: is_healthy(service))
token, credential_id = create("scim-guard_admin_1", "/etc/scim-guard/admin.yaml")
status, body = wait_for("answer of the backend", lambda: (answer := ask(token))[0] == 200 and answer)
expect(f"x-scim-credential-id: {credential_id}" in body.lower(), f"the backend was told {body}")
expect(token not in body, "the backend was told the token")
expect(ask("unknown-token-0123456789")[0] == 401, "an unknown token is not refused")

for service in ("proxy", "admin"):
    podman("stop", "--time", "30", f"scim-guard_{service}_1")
    code = podman("inspect", "--format", "{{.State.ExitCode}}", f"scim-guard_{service}_1").stdout.strip()
    expect(code == "0", f"{service}: exit {code}")
for service in SERVICES:
    podman("start", f"scim-guard_{service}_1")
wait_for("the proxy's health after a restart", lambda: is_healthy("proxy"))
answer = ask(token)
expect(answer[0] == 200, f"after a restart: {answer}")
run(*COMPOSE, "down", "--volumes", "--timeout", "5")
end()
