"""The settings of a server. It imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gptcli.config import Config

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8000


class ServeSettings(Config):
    """Where a server listens, and how much it takes on.

    A request of the API may ask for several samples: one for each of its prompts and each of its choices.
    """

    host: str = LOOPBACK
    """Address or name of the network interface to listen at."""

    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port to listen at; 0 is any that is free."""

    unix_socket: str | None = None
    """Path of a Unix socket to listen at instead of a port."""

    allowed_hosts: tuple[str, ...] = ()
    """Names besides localhost and addresses by which requests may name the server if there is no API key."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the server, such as https://example.org; * is every page."""

    log: Literal["none", "requests", "prompts"] = "requests"
    """What is written to stderr of each request: nothing, one line, or the line and the body."""

    slots: int = Field(default=32, ge=1, le=4096)
    """Most samples of a model that are generated side by side."""

    queue: int = Field(default=256, ge=1, le=10**6)
    """Most samples of a model that wait for a slot; further requests are answered with 429."""

    context: int | None = Field(default=None, ge=1, le=10**7)
    """Most tokens of a sample that a model reads at once, None for its own context; with fewer, more samples fit in
    memory."""

    max_samples: int = Field(default=128, ge=1, le=10**6)
    """Most samples of one request."""

    max_body_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**30)
    """Longest body of a request."""

    max_buffered_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Most bytes of bodies that are being received at once."""

    max_connections: int = Field(default=2048, ge=1, le=10**6)
    """Most connections that are open at once."""

    head_seconds: float = Field(default=20, gt=0)
    """Time in which the head of a request must arrive."""

    body_seconds: float = Field(default=60, gt=0)
    """Time in which the body of a request must arrive."""

    write_seconds: float = Field(default=60, gt=0)
    """Time in which a client must read something of an answer that waits for it."""

    request_seconds: float = Field(default=600, gt=0)
    """Time after which a request that is not yet answered ends with 504."""

    drain_seconds: float = Field(default=30, ge=0)
    """Time that requests under way get to end after SIGTERM."""

    watch_seconds: float = Field(default=10, gt=0)
    """Time between two looks for a newer checkpoint."""

    @model_validator(mode="after")
    def one_request_fits_the_queue(self) -> ServeSettings:
        """Refuse a queue that could never hold the samples of one request."""
        if self.max_samples > self.queue + self.slots:
            raise ValueError(
                f"one request may ask for {self.max_samples} samples, and only {self.queue} + {self.slots} fit"
            )
        return self
