"""Gathers what is wrong, so that one run tells all of it."""

import re
import sys

faults = []


def expect(holds, fault):
    if not holds:
        faults.append(fault)


def end():
    sys.exit("\n".join(faults) or None)


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def port(address):
    return int(address.rpartition(":")[2])


def drain_of(config):
    """How long a process may take to end, in seconds: what the config says, or its defaults, and 5 for the admin API."""
    drain = {"delay": "5s", "deadline": "20s"} | config.get("proxy", {}).get("drain", {})
    proxy = sum(seconds(duration) for duration in drain.values()) if "proxy" in config else 0
    return proxy + (5 if "admin" in config else 0)
