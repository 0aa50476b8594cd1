"""Who can reach the Ray servers of this machine, and whether they ask for a token (CVE-2023-48022).

    listening sockets -> those that may be Ray's -> a harmless question without a token -> it asks for one, it does not, or it is not Ray

Ray binds its ports to all interfaces whatever the dashboard's host, and whoever reaches one of them without a token runs code there.
Each is asked by its own protocol, so that another program on the same port is not taken for Ray, nor another user's Ray missed.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TIMEOUT_S = 3.0

GCS_PORT, DASHBOARD_PORT, CLIENT_PORT, AGENT_PORT = 6379, 8265, 10001, 52365

Kind = Literal["gcs", "dashboard", "client", "agent"]
"""The control store, the job server, Ray Client, and each node's own door to jobs."""

DEFAULT_PORTS: Mapping[int, Kind] = {GCS_PORT: "gcs", DASHBOARD_PORT: "dashboard", CLIENT_PORT: "client", AGENT_PORT: "agent"}

_METHODS = {"gcs": "/ray.rpc.NodeInfoGcsService/CheckAlive", "client": "/ray.rpc.RayletDriver/ClusterInfo"}
_PAGES = {"dashboard": ("/api/version", b"ray_version"), "agent": ("/api/job_agent/jobs/none/logs", b"Job none does not exist")}
"""A page that changes nothing, and what only Ray says there."""


@dataclass(frozen=True)
class Server:
    """A Ray server that listens here."""

    port: int
    kind: Kind
    addresses: tuple[str, ...]
    asks_token: bool

    @property
    def is_public(self) -> bool:
        """Whether it listens beyond the loopback interface."""
        return any(not _is_loopback(address) for address in self.addresses)


def servers(known: Mapping[int, Kind] = DEFAULT_PORTS) -> list[Server]:
    """The Ray servers that listen on this machine, by port: on the `known` ports, and where a process that looks like Ray's listens."""
    import psutil

    listening: dict[tuple[int, Kind], set[str]] = {}
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            kind = known.get(connection.laddr.port) or _kind_of(connection.pid)
            if kind is not None:
                listening.setdefault((connection.laddr.port, kind), set()).add(connection.laddr.ip.removeprefix("::ffff:"))
    found = []
    for (port, kind), addresses in sorted(listening.items()):
        # A server on one address alone must be asked there; one on all of them answers on the loopback interface too.
        single = next((address for address in sorted(addresses) if address not in ("0.0.0.0", "::")), "127.0.0.1")  # noqa: S104
        answer = asks_token(single, port, kind)
        if answer is not None:
            found.append(Server(port, kind, tuple(sorted(addresses)), answer))
    return found


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _kind_of(pid: int | None) -> Kind | None:
    """What kind of Ray server a process is, if it is one, whatever its port."""
    import psutil

    try:
        command = " ".join(psutil.Process(pid).cmdline()[:4]) if pid is not None else ""
    except psutil.Error:
        return None
    if "gcs/gcs_server" in command:
        return "gcs"
    return "client" if "ray.util.client.server" in command else None


def asks_token(host: str, port: int, kind: Kind) -> bool | None:
    """Whether a server refuses a harmless question that carries no token; None where it is not Ray, or does not answer in time."""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return _asks_page(host, port, *_PAGES[kind]) if kind in _PAGES else _asks_method(host, port, _METHODS[kind])


def _asks_page(host: str, port: int, page: str, sign: bytes) -> bool | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{host}:{port}{page}", timeout=TIMEOUT_S) as answer:
            return False if sign in answer.read(4096) else None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return True
        return False if sign in error.read(4096) else None
    except (OSError, ValueError):
        return None


def _asks_method(host: str, port: int, method: str) -> bool | None:
    import importlib

    grpc: Any = importlib.import_module("grpc")  # it has no types
    # What another gRPC service, or one of another protocol, says to a method that it does not have.
    strangers = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN)
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return True
            return None if error.code() in strangers else False
    return False
