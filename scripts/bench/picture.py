"""Curves drawn by matplotlib, as SVG or PNG by the file's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from gptcli.errors import UsageError, missing_extra
from gptcli.storage import storage_errors

FORMATS = (".svg", ".png")
Curve = Sequence[tuple[float, float]]


def check_picture(path: Path) -> None:
    """Check that a picture can be drawn, before anything is measured.

    Raises:
        UsageError: the suffix is none of FORMATS, or matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--picture {path} has no suffix that names its format", f"end it in {' or '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "bench", "--picture")


def draw_curves(curves: Mapping[str, Sequence[Curve]], targets: Sequence[float], title: str, path: Path) -> None:
    """Draw loss against seconds: a colour for each contender, a line for each run, a dotted line at each target.

    Raises:
        StorageError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "gptcli"  # the same curves give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, (name, runs) in enumerate(curves.items()):
        for i, run in enumerate(runs):
            seconds, losses = zip(*run, strict=True)
            axes.plot(seconds, losses, color=f"C{number}", alpha=0.8, linewidth=1.5, label=name if i == 0 else None)
    for target in targets:
        axes.axhline(target, color="grey", linestyle=":", linewidth=1)
    axes.set(title=title, xlabel="seconds of training", ylabel="validation loss, nats a character")
    axes.set_xscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    pyplot.close(figure)
