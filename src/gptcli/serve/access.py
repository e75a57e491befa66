"""Who may use a server: API keys, and which web pages.

A browser sends requests to this machine for any page that it shows. Without a key, a page of another site must
therefore not get through: it cannot send JSON to another origin without asking first (CORS), which is refused; and a
page whose own name is made to lead to this machine (DNS rebinding) still names itself in the Host header.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from gptcli.errors import UsageError
from gptcli.serve.openai.errors import ApiError
from gptcli.storage import read_regular, storage_errors

KEY_VARIABLE = "GPTCLI_API_KEY"
BEARER = "bearer "
SHORTEST_KEY = 16
"""Fewest characters of a key that is accepted at the start."""
MOST_KEYS = 1000


class ApiKeys:
    """The keys of a server. Without any, every request is allowed."""

    def __init__(self, keys: Collection[str] = ()) -> None:
        self.keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def require(self, authorization: str) -> None:
        """Compare the Authorization header with every key, in a time that does not depend on how much is right.

        Raises:
            ApiError: it holds none of the keys.
        """
        scheme, given = authorization[: len(BEARER)], authorization[len(BEARER) :].strip().encode()
        matches = [hmac.compare_digest(key, given) for key in self.keys]
        if scheme.lower() == BEARER and any(matches):
            return
        what = "wrong API key" if authorization else "this server needs an API key"
        raise ApiError(
            401,
            f"{what}: send the header 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


NO_KEYS = ApiKeys()


def read_keys(path: Path | None) -> ApiKeys:
    """Return the keys of a file, one a line, or else the one of the environment.

    Raises:
        UsageError: a key is too short or not ASCII, or the file has none.
        StorageError: the file cannot be read.
    """
    source, lines = f"the variable {KEY_VARIABLE}", [os.environ.get(KEY_VARIABLE, "").strip()]
    if path is not None:
        source = str(path)
        with storage_errors(path, "read"):
            lines = [line.strip() for line in read_regular(path).decode(errors="replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if path is not None and not keys:
        raise UsageError(f"{source} has no API key", "write one into it: openssl rand -hex 32")
    if len(keys) > MOST_KEYS:
        raise UsageError(f"{source} has more than {MOST_KEYS:,} API keys", "remove some")
    if any(len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise UsageError(
            f"{source} has an API key that is shorter than {SHORTEST_KEY} characters or not plain ASCII",
            "make one: openssl rand -hex 32",
        )
    return ApiKeys(keys)


class AccessPolicy:
    """The rules by which requests get in.

    Args:
        keys: the API keys.
        hosts: names of the server that are allowed besides localhost and addresses.
        origins: origins of other sites' pages that are allowed.
        open_paths: paths that everyone may read, as the page, which asks for the key itself.
    """

    def __init__(
        self,
        keys: ApiKeys,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        open_paths: Collection[str] = (),
    ) -> None:
        self.keys, self.open_paths = keys, frozenset(open_paths)
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origins)

    def check(self, path: str, method: str, headers: Mapping[str, str]) -> None:
        """Let a request in.

        Raises:
            ApiError: its key is missing or wrong; or, where there are no keys, it comes from a page of another site.
        """
        if path in self.open_paths:
            return
        if self.keys:
            self.keys.require(headers.get("authorization", ""))
            return
        host = host_name(headers.get("host", ""))
        if "host" in headers and not self.is_known(host):
            raise ApiError(
                403,
                f"this server does not know itself by the name {host[:100]!r}; if the name is right, start it with "
                "--allow-host NAME, or with an API key",
                code="unknown_host",
            )
        origin = headers.get("origin")
        if origin is None or method in ("GET", "HEAD") or "*" in self.origins or origin in self.origins:
            return
        if host_name(urlsplit_netloc(origin)) != host:
            raise ApiError(
                403,
                "this server takes no requests from pages of other sites; start it with --cors ORIGIN to allow one",
                code="foreign_origin",
            )

    def is_known(self, host: str) -> bool:
        """Return whether a Host header's name is one of this server, which no page of another site can have."""
        if host == "localhost" or host.endswith(".localhost") or host in self.hosts:
            return True
        try:
            ip_address(host)
        except ValueError:
            return False
        return True


def host_name(netloc: str) -> str:
    """Return the name or address of HOST:PORT in lower case, without the brackets of IPv6."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.partition(":")[0].lower().rstrip(".")


def urlsplit_netloc(origin: str) -> str:
    """Return HOST:PORT of an origin, or the origin itself if it has none, as `null`."""
    try:
        return urlsplit(origin).netloc or origin
    except ValueError:
        return origin
