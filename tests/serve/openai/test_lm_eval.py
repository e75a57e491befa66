"""lm-evaluation-harness through HTTP: the numbers are those of `gptcli eval --tasks`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptcli.evaluate.requests import TasksRequest, evaluate_tasks
from gptcli.interop.huggingface import write_huggingface
from gptcli.session import ModelRequest, Session

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="needs lm_eval[api]")

CONTINUES, CONTEXT = "continues", 160
PROSE = "the ferry left at nine and Mara who had promised to be on it was still looking for her other boot"
WORDS = PROSE.split()
CHOICES = ["It left", "the boot", "“Ça va?”"]
ROWS = {
    "choices": [
        {"prompt": " ".join(WORDS[start:]), "choices": [*CHOICES, WORDS[start]], "answer": start % 4}
        for start in range(12)
    ],
    "texts": [{"text": text} for text in (PROSE, "Short.", "“Leave it,” said her brother. " * 3)],
    "answers": [{"prompt": " ".join(WORDS[:count]), "target": "it"} for count in range(1, 8)],
}
TASKS = {
    "choices": 'output_type: multiple_choice\ndoc_to_text: "{{prompt}}"\ndoc_to_choice: "{{choices}}"\n'
    "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]",
    "texts": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]",
    "answers": 'output_type: generate_until\ndoc_to_text: "{{prompt}}"\ndoc_to_target: "{{target}}"\n'
    'generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 12, do_sample: false}\n'
    "metric_list: [{metric: chrf}, {metric: exact_match, aggregation: mean}]",
}  # fmt: skip


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, text in TASKS.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        head = f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(head + text)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_numbers_are_those_of_the_command(
    address: str, continuing: Session, tasks: Path, tmp_path: Path, batch_size: int
) -> None:
    from lm_eval.tasks import TaskManager

    run = tmp_path / "run"
    write_huggingface(continuing.model, continuing.tokenizer, run)
    scores = evaluate_tasks(TasksRequest(ModelRequest(str(run), device="cpu"), tuple(TASKS), include_path=str(tasks)))
    expected = {(score.task, f"{score.metric},{score.filter}"): score.value for score in scores.evaluation.scores}

    arguments: dict[str, Any] = {
        "model": CONTINUES,
        "base_url": f"{address}/v1/completions",
        "tokenizer": str(run),
        "tokenizer_backend": "huggingface",
        "max_length": CONTEXT,
    }
    found = lm_eval.simple_evaluate(
        "local-completions", model_args=arguments, tasks=list(TASKS), batch_size=batch_size, log_samples=False,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), bootstrap_iters=0,
    )["results"]  # fmt: skip

    assert len(expected) >= 7
    for (task, metric), value in expected.items():
        assert found[task][metric] == pytest.approx(value, rel=1e-6, abs=5e-5), (task, metric)
