"""Loaded by Python itself where this folder is on PYTHONPATH: no name is looked up and no connection made outside
this machine. What was tried is appended to the file that GUARD_LOG names, and fails as it would without a network.
"""

import ipaddress
import os
import sys
from typing import Any


def _here(host: object) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "localhost")
    try:
        return ipaddress.ip_address(name).is_loopback or ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return name == "localhost"


def _guard(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not _here(host):
        with open(os.environ["GUARD_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{host}\n")
        raise OSError(f"the guard lets nothing out, and {host} is outside")


sys.addaudithook(_guard)
