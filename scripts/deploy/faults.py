"""Gathers what is wrong, so that one run tells all of it. Only waiting in vain ends it at once."""

import re
import sys
import time

# In seconds, for a machine that is busy with other things.
PATIENCE = 60

faults = []


def expect(holds, fault):
    if not holds:
        faults.append(fault)


def end():
    sys.exit("\n".join(faults) or None)


def wait_for(what, question, give_up=sys.exit):
    """The answer to a question, once there is one. Who gives up is told what for, and may tell more before it ends."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        if time.monotonic() > deadline:
            give_up(f"no {what} after {PATIENCE} s")
        time.sleep(0.05)
    return answer


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def port(address):
    return int(address.rpartition(":")[2])


def end_of(config, sleep=0):
    """How long a process may take to end, in seconds, beginning with its preStop: the drain as the config says, or by its
    defaults; then 5 for the admin API and 16 for a change of a mirrored cloud, 2 for the access log, 3 for traces, and 15 for one more look at the
    metrics."""
    drain = {"delay": "5s", "deadline": "20s"} | config.get("proxy", {}).get("drain", {})
    proxy = sum(seconds(duration) for duration in drain.values()) if "proxy" in config else 0
    mirror = 16 if config.get("admin", {}).get("mirror") else 0
    return sleep + proxy + 5 + mirror + 2 + 3 + 15
