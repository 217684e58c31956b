"""Fails for a Compose file that does not follow the specification, or has a container that is not locked down.

Arguments: the file, and a directory to lay out what the containers see. Prints `file PATH` for what it reads and
`config PATH` for each process's configuration.
"""

import json
import os
import shutil
import sys

import compose_spec
import yaml
from faults import end, end_of, expect, port, seconds
from standins import standin


def check_locked_down(name, service):
    expect(service.get("read_only") is True, f"{name}: read_only is not true")
    expect(service.get("cap_drop") == ["ALL"], f"{name}: cap_drop is not [ALL]")
    expect(service.get("security_opt") == ["no-new-privileges:true"], f"{name}: may gain privileges")
    # Root is for a step that ends, and with that one capability.
    step = service.get("restart") == "no" and service.get("network_mode") == "none" and service.get("cap_add") == ["CHOWN"]
    expect(service.get("user") == "65532:65532" or step, f"{name}: user is neither 65532:65532 nor that of a step that ends")
    expect("cap_add" not in service or step, f"{name}: adds capabilities")
    expect({"mem_limit", "cpus", "pids_limit"} <= service.keys(), f"{name}: without limits")


def lay_out(root, service):
    """Makes the directories that the container sees, and returns its configuration moved there."""
    path = service["command"][service["command"].index("--config") + 1]
    os.makedirs(f"{root}/run/secrets")
    for secret in service.get("secrets", []):
        with open(f"{root}/run/secrets/{secret}", "w") as file:
            file.write(standin(secret))
    mounts = {"/run/secrets"}
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        mounts.add(target)
        if source.startswith("./"):
            shutil.copytree(f"{folder}/{source}", f"{root}{target}")
            for file in os.listdir(f"{folder}/{source}"):
                print("file", os.path.normpath(f"{folder}/{source}/{file}"))
        else:
            os.makedirs(f"{root}{target}")
    with open(f"{root}{path}") as file:
        text = file.read()
    moved = text
    for mount in mounts:
        moved = moved.replace(f"{mount}/", f"{root}{mount}/")
    with open(f"{root}{path}", "w") as file:
        file.write(moved)
    print("config", f"{root}{path}")
    return path, yaml.safe_load(text)


compose, directory = sys.argv[1:]
folder = os.path.dirname(compose)
with open(compose) as file:
    content = yaml.safe_load(file)
try:
    parsed = compose_spec.PyCompose.from_json(json.dumps(content, default=str))
    parsed.validate_networks()
    parsed.validate_volumes()
    parsed.validate_secrets()
except ValueError as error:
    sys.exit(f"{compose}: {error}")
print("file", compose)
for name, service in content["services"].items():
    check_locked_down(name, service)
    if "serve" not in service["command"]:
        continue
    path, config = lay_out(f"{directory}/{name}", service)
    probe = service.get("healthcheck", {}).get("test", [])
    expect(probe[:3] == ["CMD", "/scim-guard", "health"] and probe[-2:] == ["--config", path], f"{name}: healthcheck does not ask `scim-guard health`")
    expect(seconds(service["stop_grace_period"]) > end_of(config), f"{name}: stop_grace_period is not above {end_of(config)} s")
    faces = {port(listener["address"]) for listener in config.get("proxy", {}).get("listeners", [])}
    published = {port(entry) for entry in service.get("ports", [])}
    expect(published == faces, f"{name}: publishes {published}, and the proxy listens on {faces}")
    expect(all(entry.startswith("127.0.0.1:") for entry in service.get("ports", [])), f"{name}: publishes cleartext beyond loopback")
end()
