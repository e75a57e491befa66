"""The rounds of a contender that encodes: all texts, with a newly loaded tokenizer."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcli.report.bench.jobs import EncodingJob

Encode = Callable[[list[str]], Sequence[Sequence[int] | npt.NDArray[Any]]]
"""Texts -> the ids of each."""


def read_texts(job: EncodingJob) -> list[str]:
    """Read the texts of the job."""
    texts: list[str] = json.loads(Path(job.texts).read_text())
    return texts


def encoding_round(job: EncodingJob, encode: Encode) -> dict[str, Any]:
    """Measure bytes of UTF-8 a second and the cores in use; add a hash of the ids, computed outside the time."""
    texts = read_texts(job)
    began, worked = time.perf_counter(), time.process_time()
    encoded = encode(texts)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    digest = hashlib.sha256()
    for ids in encoded:
        digest.update(len(ids).to_bytes(8) + np.asarray(ids, dtype=np.uint32).tobytes())
    return {
        "bytes_per_second": sum(len(text.encode()) for text in texts) / seconds,
        "cores": worked / seconds,
        "tokens": sum(map(len, encoded)),
        "ids": digest.hexdigest(),
    }
