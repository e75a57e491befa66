"""The results of the checks: a line for each, one JSON object for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gptcli.errors import WrongResultError

Status = Literal["ok", "failed", "skipped"]


class Measurement(NamedTuple):
    """A difference that must not be above its limit; 0 where nothing may differ."""

    difference: float
    limit: float


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on one device.

    Attributes:
        claim: what the check is about, as a sentence that holds if it is ok.
        reason: why it was skipped, or failed without a measurement; else empty.
    """

    name: str
    device: str
    claim: str
    status: Status
    seconds: float
    measurement: Measurement | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        measured = self.measurement
        return {
            "name": self.name,
            "device": self.device,
            "claim": self.claim,
            "status": self.status,
            "difference": measured and measured.difference,
            "limit": measured and measured.limit,
            "reason": self.reason or None,
            "seconds": round(self.seconds, 3),
        }

    def line(self) -> str:
        """Return the result as a line."""
        if self.measurement is None:
            detail = self.reason
        elif self.measurement == (0, 0):
            detail = "identical"
        else:
            detail = self.differs()
        return f"{self.status:<8} {self.device:<6} {self.name:<13} {self.claim}: {detail}"

    def differs(self) -> str:
        """Return the difference and its limit in words."""
        assert self.measurement is not None
        found, limit = self.measurement
        return f"differs by {found:.2g}" if limit == 0 else f"difference {found:.1e}, limit {limit:.0e}"


@dataclass(frozen=True)
class SelfCheck:
    """All results, and the `conditions` under which they were found (machine, versions)."""

    results: tuple[CheckResult, ...]
    conditions: Mapping[str, Any]

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    def as_dict(self) -> dict[str, Any]:
        """Return the results for `--json`."""
        return {
            "ok": not self.failures,
            "checks": [result.as_dict() for result in self.results],
            **self.conditions,
        }

    def text(self) -> str:
        """Return the results for people."""
        return "\n".join(result.line() for result in self.results)

    def raise_if_failed(self) -> None:
        """Raise WrongResultError if a check failed."""
        if self.failures:
            names = ", ".join(f"{result.name} on {result.device}" for result in self.failures)
            raise WrongResultError(
                f"wrong results on this machine: {names}",
                "do not trust a training here; please report the output of: gptcli selfcheck --json",
            )
