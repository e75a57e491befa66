"""`gptcli selfcheck`."""

from __future__ import annotations

from typing import Annotated

from gptcli.cli.options import AsJson, compute_option
from gptcli.cli.output import show_report

Where = Annotated[str, compute_option(help="Check this device: cpu, cuda, cuda:N or mps (auto: every one there is).")]


def selfcheck(device: Where = "auto", as_json: AsJson = False) -> None:
    """Check that this machine computes what it should.

    It takes less than a minute. Small models are trained and run in several ways that must agree: in fp32 and fp64, in
    one batch and in eight, with fused kernels and the plain formula, with a cache and without, compiled and not, by one
    thread and by all, saved and loaded, killed and resumed. The exit code is 8 if any of them differ.

    Examples:
        gptcli selfcheck
        gptcli selfcheck --device cuda --json
    """
    from gptcli.report.selfcheck.run import self_check

    report = self_check(device)
    show_report(report, as_json)
    report.raise_if_failed()
