"""CTranslate2 as a contender: its Generator on the output of its own converter."""

from __future__ import annotations

import json
from pathlib import Path

from gptcli.report.bench.decoding_rounds import decoding_contender
from gptcli.report.bench.jobs import DecodingJob
from gptcli.report.bench.worker import Contender

QUANTIZATIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def generate(job: DecodingJob) -> Contender:
    import ctranslate2
    import transformers

    transformers.logging.set_verbosity_error()
    kind = QUANTIZATIONS[job.numbers]
    folder = Path(job.scratch) / "ctranslate2"
    ctranslate2.converters.TransformersConverter(job.directory).convert(str(folder), quantization=kind)
    tokens = json.loads((folder / "vocabulary.json").read_text())
    number = {token: i for i, token in enumerate(tokens)}
    device, _, index = job.device.partition(":")
    generator = ctranslate2.Generator(
        str(folder), device, device_index=int(index or 0), compute_type=kind, intra_threads=job.threads
    )

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        results = generator.generate_batch(
            [[tokens[i] for i in prompt] for prompt in prompts],
            max_length=count,
            min_length=count,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [[number[token] for token in result.sequences[0]] for result in results]

    return decoding_contender(continue_prompts, job, same_weights=True)
