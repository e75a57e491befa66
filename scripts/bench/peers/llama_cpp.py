"""llama.cpp as a contender, through llama-cpp-python: the GGUF file that `gptcli export` writes, one prompt at a time.

Its high-level class continues one sequence; a batch is its prompts one after the other. Keys and values are kept in
fp16, which is its default.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from gptcli.interop.gguf import GgufMetadata, write_gguf
from gptcli.interop.huggingface import read_huggingface
from gptcli.report.bench.decoding_rounds import decoding_contender
from gptcli.report.bench.jobs import DecodingJob
from gptcli.report.bench.worker import Contender
from gptcli.tokenizer.train import byte_tokenizer

QUANTIZATIONS = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0"}


def generate(job: DecodingJob) -> Contender:
    import llama_cpp

    model, _ = read_huggingface(Path(job.directory))
    path = Path(job.scratch) / "model.gguf"
    # Prompts are ids, so any tokenizer does; not every one of a Hugging Face directory has a form in GGUF.
    write_gguf(model, byte_tokenizer(), path, QUANTIZATIONS[job.numbers], GgufMetadata("bench"))
    length = len(job.prompts[0])
    del model
    llama = llama_cpp.Llama(
        model_path=str(path),
        n_ctx=length + job.new_tokens,
        n_batch=max(length, 1),
        n_threads=job.threads,
        n_threads_batch=job.threads,
        n_gpu_layers=0 if job.device == "cpu" else -1,
        verbose=False,
    )

    def continue_one(prompt: list[int], count: int) -> list[int]:
        llama.reset()  # or it would keep what the prompt has in common with the last one
        return list(islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), count))

    def continue_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
        return [continue_one(prompt, count) for prompt in prompts]

    return decoding_contender(continue_prompts, job, same_weights=True)
