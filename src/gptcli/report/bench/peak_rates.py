"""The machine itself as a contender: the rates that a program could reach here at best.

Matrix products show the highest rate of arithmetic; reading more memory than the caches hold shows the highest rate
of reading weights. M, K, N: a product of (M, K) by (K, N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gptcli.nn.device import allow_tf32
from gptcli.nn.inference import PackedLinear, packs
from gptcli.report.bench.clock import seconds_of
from gptcli.report.bench.jobs import DecodingJob, LimitsJob, TrainingJob
from gptcli.report.bench.worker import Contender

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
SQUARE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the square matrices whose product gives the device's rate."""
STREAM_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30, "mps": 1 << 30}
"""Bytes read to measure bandwidth: several times the largest caches; at most a quarter of a GPU's memory."""
STREAM_SECONDS = 0.3
MATRIX = 4096
"""Side of the square fp32 matrices (64 MiB) that are streamed, a vector times each."""


def limits(job: LimitsJob) -> Contender:
    """Return a contender whose round measures one figure, or reports why this torch cannot measure it."""
    device = torch.device(job.device)
    memory = Memory(device)

    def run_round(what: str, threads: int, **details: Any) -> dict[str, Any]:
        torch.set_num_threads(threads)
        try:
            match what:
                case "gemm":
                    return {"rate": gemm_rate(device, details["dtype"], details["shape"], job.seconds)}
                case _:
                    return {"rate": memory.rate(what, job.seconds)}
        except (RuntimeError, NotImplementedError) as error:  # what torch raises for a dtype that a device lacks
            return {"unavailable": str(error).partition("\n")[0]}

    return Contender({"square": SQUARE[device.type]}, run_round)


def train(job: TrainingJob) -> Contender:
    """Return a contender whose round computes square matrix products in the precision of the training."""
    device = torch.device(job.device)
    allow_tf32(job.config["train"]["tf32"])
    side = SQUARE[device.type]

    def run_round() -> dict[str, Any]:
        return {"flops_per_second": gemm_rate(device, job.precision, (side, side, side), min(job.seconds, 1.0))}

    return Contender({"what": f"{job.precision} matrix products, {side} square"}, run_round)


def generate(job: DecodingJob) -> Contender:
    """Return a contender whose round reads fp32 matrices, by a vector times each or by a sum: the faster."""
    memory = Memory(torch.device(job.device))

    def run_round(batch_size: int) -> dict[str, Any]:
        return {"bytes_per_second": max(memory.rate(what, STREAM_SECONDS) for what in ("gemv", "sum"))}

    return Contender({}, run_round)


def gemm_rate(device: torch.device, dtype: str, shape: tuple[int, int, int], seconds: float) -> float:
    """Return operations a second of a matrix product (M, K) x (K, N), which takes 2 M K N, by the fastest library."""
    m, k, n = shape
    ways = products(device, DTYPES[dtype], m, k, n)
    return 2 * m * k * n / min(seconds_of(way, device, seconds / len(ways)) for way in ways)


def products(device: torch.device, dtype: torch.dtype, m: int, k: int, n: int) -> list[Callable[[], Tensor]]:
    """Return the product of a linear layer, whose weight is (N, K), by each library that has it; int8 sums in int32."""
    if dtype == torch.int8:
        a = torch.randint(-128, 127, (m, k), dtype=dtype, device=device)
        weight = torch.randint(-128, 127, (n, k), dtype=dtype, device=device)
        return [lambda: torch._int_mm(a, weight.t())]  # not public, and the only int8 product that torch has
    a = torch.randn(m, k, device=device).to(dtype)
    weight = torch.randn(n, k, device=device).to(dtype)
    ways = [lambda: torch.nn.functional.linear(a, weight)]
    if packs(weight):
        packed = PackedLinear(weight, None)
        ways.append(lambda: packed(a))
    return ways


class Memory:
    """Memory read and copied at the device's best, in bytes a second."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        available = STREAM_BYTES[device.type]
        if device.type == "cuda":
            available = min(available, torch.cuda.get_device_properties(device).total_memory // 4)
        count = available // (4 * MATRIX**2)
        self.matrices = torch.empty(count, MATRIX, MATRIX, device=device).uniform_(-1, 1)
        self.vector = torch.ones(MATRIX, device=device)

    def rate(self, what: str, seconds: float) -> float:
        """Return bytes a second of one use of memory.

        `gemv`: a vector times every matrix, as decoding reads weights; `sum`: the sum of all of them; `copy`: one half
        copied over the other, where bytes read and bytes written both count.
        """
        half = self.matrices[: len(self.matrices) // 2]
        work: Callable[[], object]
        match what:
            case "gemv":
                work, count = self.sweep, self.matrices.numel()
            case "sum":
                work, count = self.matrices.sum, self.matrices.numel()
            case "copy":
                other = self.matrices[len(half) : 2 * len(half)]
                work, count = (lambda: other.copy_(half)), 2 * half.numel()
            case _:
                raise ValueError(f"no such figure: {what}")
        return 4 * count / seconds_of(work, self.device, seconds)

    def sweep(self) -> None:
        """Multiply every matrix by the vector."""
        for matrix in self.matrices:
            torch.mv(matrix, self.vector)
