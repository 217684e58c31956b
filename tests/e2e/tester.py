"""Runs one conformance tester against one SCIM base URL and prints every outcome.

    TOKEN=... tester.py {scim2-tester | scim2-cli | scim-sanity} BASE_URL

Standard output is one JSON object a line: `name` and `status` of the check, and `reason`, what
the tester said about it. What differs from run to run (ids, times, random values) is replaced by
a word for it, and the address the tester was given by `SERVER`. Every other address stays, so an
answer that names the server behind a proxy is seen. Nothing is judged here: whether a server
passes its checks is its own affair.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

Outcome = dict[str, str]

# In this order: a UUID holds digits that look like a phone number.
RUN_SPECIFIC = [
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), "TIME"),
    (re.compile(r'W/\\*"[^"\\]*\\*"'), "ETAG"),
    (re.compile(r"[A-Za-z0-9+/]{22}=="), "BYTES"),
    (re.compile(r"\b\d{10}\b"), "PHONE"),
]


def main() -> None:
    tester, url = sys.argv[1:]
    for outcome in TESTERS[tester](url, os.environ["TOKEN"]):
        outcome = {key: normalise(text) for key, text in outcome.items()}
        print(json.dumps(outcome).replace(urlsplit(url).netloc, "SERVER"))


def normalise(text: str) -> str:
    for pattern, word in RUN_SPECIFIC:
        text = pattern.sub(word, text)
    return text


def scim2_tester(url: str, token: str) -> Iterator[Outcome]:
    from httpx2 import Client
    from scim2_client.engines.httpx2 import SyncSCIMClient
    from scim2_tester import check_server

    random.seed(0)  # It draws example values; a strict server refuses some of them.
    headers = {"Authorization": f"Bearer {token}"}
    with Client(base_url=url, headers=headers) as http:
        for result in check_server(SyncSCIMClient(http)):
            yield {
                "name": " ".join(filter(None, [result.resource_type, result.title])),
                "status": result.status.name,
                "reason": f"{result.reason}\n{json.dumps(canonical(result.data))}",
            }


def canonical(data: object) -> object:
    """What a check saw, as JSON. Lists are sorted: a server may order resources by random id."""
    if hasattr(data, "model_dump"):
        data = data.model_dump(mode="json")
    if isinstance(data, dict):
        return {key: canonical(value) for key, value in data.items()}
    if isinstance(data, list):
        return sorted(map(canonical, data), key=lambda item: normalise(json.dumps(item)))
    return data if isinstance(data, bool | int | None) else str(data)


def scim2_cli(url: str, token: str) -> Iterator[Outcome]:
    """Its commands run in this process: its imports take longer than what it does."""
    random.seed(0)
    environment = {"SCIM_CLI_URL": url, "SCIM_CLI_HEADERS": f"Authorization: Bearer {token}"}
    yield from compliance_check(environment)
    for resource_type, name in (("user", "userName"), ("group", "displayName")):
        yield from life_of(resource_type, name, environment)


def compliance_check(environment: dict[str, str]) -> Iterator[Outcome]:
    """`scim2 test` prints a line with status and name of a check, then the reason."""
    done = scim2(["test"], environment)
    checks = re.split(r"^(?=[A-Z]+ [a-z_]+$)", done["reason"], flags=re.MULTILINE)
    for check in checks[1:]:
        heading, _, reason = check.partition("\n")
        status, _, name = heading.partition(" ")
        yield {"name": name, "status": status, "reason": reason}
    yield {"name": "test", "status": done["status"], "reason": checks[0]}


def life_of(resource_type: str, name: str, environment: dict[str, str]) -> Iterator[Outcome]:
    """Creates, reads, changes and deletes one resource, each by its own command."""
    option = "--" + re.sub("[A-Z]", lambda letter: "-" + letter[0].lower(), name)
    created = scim2(["create", resource_type, option, "one"], environment)
    yield created
    if created["status"] != "exit 0":
        return
    identity = json.loads(created["reason"])["id"]
    for arguments in [
        ["create", resource_type, option, "one"],
        ["query", resource_type, "--filter", f'{name} eq "one"', "--count", "5"],
        ["replace", resource_type, option, "two", "--id", identity],
        ["modify", resource_type, identity, "replace", "externalId", "three"],
        ["query", resource_type, identity],
        ["delete", resource_type, identity],
        ["query", resource_type, identity],
    ]:
        yield scim2(arguments, environment)


def scim2(arguments: list[str], environment: dict[str, str]) -> Outcome:
    from click.testing import CliRunner
    from scim2_cli import cli

    done = CliRunner().invoke(cli, arguments, env=environment)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return {"name": " ".join(arguments), "status": f"exit {done.exit_code}", "reason": done.output}


def scim_sanity(url: str, token: str) -> Iterator[Outcome]:
    program = Path(sys.executable).parent / "scim-sanity"
    options = ["--token", token, "--json-output", "--i-accept-side-effects"]
    done = subprocess.run([program, "probe", url, *options], capture_output=True, text=True)
    if not done.stdout.startswith("{"):
        sys.exit(f"scim-sanity gave no report: {done.stdout}{done.stderr}")
    report = json.loads(done.stdout)
    for check in report["results"]:
        yield {
            "name": f"{check['phase']}: {check['name']}",
            "status": check["status"],
            "reason": f"{check.get('message', '')}\n{check.get('details', '')}",
        }
    yield {"name": "probe", "status": f"exit {done.returncode}", "reason": str(report["issues"])}


TESTERS = {"scim2-tester": scim2_tester, "scim2-cli": scim2_cli, "scim-sanity": scim_sanity}

if __name__ == "__main__":
    main()
