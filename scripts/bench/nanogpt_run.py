"""nanoGPT's own train.py, unchanged: `python nanogpt_run.py SPEC`, in a copy of the checkout, without gptcli.

The script is timed from outside: the clock stops while the model is in evaluation mode (all of `estimate_loss`) and
while a checkpoint is saved. Each checkpoint's weights are kept with the time of the clock and measured on the whole
validation split after the script's end. torch.save and the script's fixed seed are replaced in this process.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

WINDOWS, LOGITS = 64, 1 << 26
"""Windows of the validation split that are measured at once, at most so many and with at most so many logits."""
ITERATION = re.compile(r"iter (\d+):")


class StepClock:
    """A clock of the seconds between `go` and `halt`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.went: float | None = None
        self.halted: float | None = None
        self.pauses: list[float] = []
        """Seconds between each halt and the next `go`."""
        self.first_halt: float | None = None
        """Time of day of the first halt, at which the script is ready for its first step."""

    def go(self) -> None:
        self.went = time.perf_counter()
        if self.halted is not None:
            self.pauses.append(self.went - self.halted)
            self.halted = None

    def halt(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.first_halt = self.first_halt or time.time()
        self.seconds, self.went = self.read(), None
        self.halted = time.perf_counter()

    def read(self) -> float:
        return self.seconds + (0.0 if self.went is None else time.perf_counter() - self.went)


class IterationWatch:
    """A text stream that records the clock whenever the script reports an iteration."""

    def __init__(self, stream: TextIO, clock: StepClock) -> None:
        self.stream, self.clock = stream, clock
        self.marks: list[tuple[int, float]] = []
        """(steps done, seconds)."""

    def write(self, text: str) -> int:
        match = ITERATION.match(text)
        if match:
            self.marks.append((int(match[1]) + 1, self.clock.read()))
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


class CheckpointKeeper:
    """A replacement of torch.save, which keeps the weights of every checkpoint, not its optimizer."""

    def __init__(self, folder: Path, clock: StepClock, save: Callable[..., None]) -> None:
        self.folder, self.clock, self.save = folder, clock, save
        self.kept: list[tuple[int, float, Path]] = []
        """(steps done, seconds, file)."""

    def __call__(self, checkpoint: dict[str, Any], path: str) -> None:
        self.clock.halt()
        kept = self.folder / f"step-{checkpoint['iter_num']}.pt"
        self.save({"model": checkpoint["model"], "model_args": checkpoint["model_args"]}, kept)
        self.kept.append((checkpoint["iter_num"], self.clock.seconds, kept))
        self.clock.go()


def run_script(arguments: list[str], seed: int, folder: Path) -> tuple[CheckpointKeeper, IterationWatch, StepClock]:
    """Run train.py of the working directory with `arguments`, with `seed` instead of the one that it fixes."""
    clock = StepClock()
    watch, keeper = IterationWatch(sys.stdout, clock), CheckpointKeeper(folder, clock, torch.save)
    sys.path.insert(0, str(Path.cwd()))
    model = importlib.import_module("model")
    set_mode, set_seed = model.GPT.train, torch.manual_seed

    def train(self: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        if not mode:
            clock.halt()
        set_mode(self, mode)
        if mode:
            clock.go()
        return self

    model.GPT.train = train
    torch.save, torch.manual_seed = keeper, lambda _: set_seed(seed)
    sys.argv, sys.stdout = ["train.py", *arguments], watch
    try:
        runpy.run_path("train.py", run_name="__main__")
    finally:
        sys.stdout, torch.save, torch.manual_seed, model.GPT.train = watch.stream, keeper.save, set_seed, set_mode
    return keeper, watch, clock


@torch.no_grad()
def whole_split_loss(path: Path, val: np.ndarray, device: str) -> float:
    """Return mean nats over every token of `val` but the first, in windows of the context that do not overlap."""
    source = importlib.import_module("model")
    checkpoint = torch.load(path, map_location=device, weights_only=True)
    model = source.GPT(source.GPTConfig(**checkpoint["model_args"])).to(device).eval()
    model.load_state_dict({name.removeprefix("_orig_mod."): tensor for name, tensor in checkpoint["model"].items()})
    context, total = checkpoint["model_args"]["block_size"], 0.0
    ids = torch.from_numpy(val.astype(np.int64)).to(device)
    at_once = context * max(1, min(WINDOWS, LOGITS // (context * checkpoint["model_args"]["vocab_size"])))
    inputs, targets = ids[:-1].split(at_once), ids[1:].split(at_once)
    for x, y in zip(inputs, targets, strict=True):
        whole = len(x) // context * context
        for part in (slice(0, whole), slice(whole, len(x))):
            if len(x[part]):
                shape = (-1, min(context, len(x[part])))
                total += model(x[part].view(shape), y[part].view(shape))[1].item() * len(x[part])
    return total / (len(ids) - 1)


def main() -> None:
    """Read {"arguments", "seed", "val", "measured", "device", "out"} from the file SPEC, run, write the curve to `out`.

    `measured` is "all" checkpoints, "none", or "lowest": from the last one backwards to one that is worse.
    """
    spec = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(spec["out"]).parent
    keeper, watch, clock = run_script(spec["arguments"], spec["seed"], folder)
    ended = time.time()
    points: list[tuple[int, float, float]] = []
    val = np.fromfile(spec["val"], dtype=np.uint16)
    for step, seconds, path in reversed(keeper.kept) if spec["measured"] != "none" else ():
        points.insert(0, (step, seconds, whole_split_loss(path, val, spec["device"])))
        if spec["measured"] == "lowest" and points[0][2] > min(loss for _, _, loss in points):
            break
    result = {
        "points": points,
        "marks": watch.marks,
        "pauses": clock.pauses,
        "ready_time": clock.first_halt,
        "end_time": ended,
    }
    Path(spec["out"]).write_text(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
