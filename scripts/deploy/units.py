"""Fails for systemd units that do not fit the configuration beside them.

Arguments: the folder, and a directory to lay out what the service sees. Prints the path of its configuration.
"""

import os
import re
import shutil
import sys

import yaml
from faults import end, end_of, expect
from standins import standin

ETC, CREDENTIALS = "/etc/scim-guard/", "/run/credentials/scim-guard.service/"


def values(unit, key):
    with open(f"{folder}/scim-guard.{unit}") as file:
        return re.findall(rf"^{key}=(.*)$", file.read(), re.MULTILINE)


folder, root = sys.argv[1:]
with open(f"{folder}/proxy.yaml") as file:
    text = file.read()
config = yaml.safe_load(text)
given = {entry.split(":")[0] for entry in values("service", "LoadCredential")}
asked = set(re.findall(rf"{CREDENTIALS}(\S+)", text))
expect(given == asked, f"LoadCredential gives {given}, and proxy.yaml asks for {asked}")
addresses = {listener["address"] for listener in config["proxy"]["listeners"]}
expect(set(values("socket", "ListenStream")) == addresses, f"scim-guard.socket does not listen on {addresses}")
(state,), (stop,) = values("service", "StateDirectory"), values("service", "TimeoutStopSec")
expect(config["admin"]["store"].startswith(f"sqlite:/var/lib/{state}/"), "the store is not in the StateDirectory")
expect(int(stop.removesuffix("s")) > end_of(config), f"TimeoutStopSec is not above {end_of(config)} s")
expect(all(f"--config {ETC}proxy.yaml" in line for line in values("service", "ExecStart")), f"ExecStart does not read {ETC}proxy.yaml")

shutil.copytree(folder, f"{root}{ETC}")
os.makedirs(f"{root}{CREDENTIALS}")
for name in given:
    with open(f"{root}{CREDENTIALS}{name}", "w") as file:
        file.write(standin(name))
with open(f"{root}{ETC}proxy.yaml", "w") as file:
    file.write(text.replace(ETC, f"{root}{ETC}").replace(CREDENTIALS, f"{root}{CREDENTIALS}"))
print(f"{root}{ETC}proxy.yaml")
end()
