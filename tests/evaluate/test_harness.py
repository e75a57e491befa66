"""lm-evaluation-harness on our model, number by number against its own `hf` model on the exported directory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.errors import DataError, UsageError
from gptcli.evaluate.requests import ChoicesRequest, TasksRequest, evaluate_choice_file, evaluate_tasks
from gptcli.evaluate.task_report import TaskReport
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.session import ModelRequest
from gptcli.tokenizer.tokenizer import Tokenizer

lm_eval = pytest.importorskip("lm_eval")

TASKS = {
    "letters": """
        output_type: multiple_choice
        doc_to_text: "{{prompt}}"
        doc_to_choice: "{{choices}}"
        doc_to_target: answer
        metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
        """,
    "texts": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{text}}"
        metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
        """,
    "sentences": """
        output_type: generate_until
        doc_to_text: "{{prompt}}"
        doc_to_target: "{{target}}"
        generation_kwargs: {until: ["\\n", "her b"], max_gen_toks: 12, do_sample: false}
        metric_list: [{metric: exact_match, aggregation: mean}, {metric: chrf}]
        """,
}


@pytest.fixture(scope="module")
def model(bpe_tokenizer: Tokenizer, prose: str) -> GPT:
    """Trained for a moment, so that what is likely is far from what is not."""
    shape = {"vocab_size": bpe_tokenizer.vocab_size, "context_length": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    model = build_model(ModelConfig(**shape), seed=3)
    ids = torch.tensor([[bpe_tokenizer.eos_id, *bpe_tokenizer.encode(prose)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(200):
        window = ids[:, step % 8 * 10 :][:, :65]
        loss = model.loss_sum(window[:, :-1], window[:, 1:]) / (window.shape[1] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def exported(model: GPT, bpe_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_huggingface(model, bpe_tokenizer, directory)
    return directory


@pytest.fixture
def tasks(tmp_path: Path, prose: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the three tasks; some rows are longer than the context."""
    import datasets

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = prose.split()
    rows = {
        "letters": [
            {
                "prompt": " ".join(words[start : start + 3 + 9 * (start % 5)]) * (1 + 3 * (start % 7 == 0)),
                "choices": [words[start + 3], "left", "at nine, and Mara", "“Leave it,” said Ω"],
                "answer": start % 4,
            }
            for start in range(24)
        ],
        "texts": [{"text": text} for text in (prose, prose * 3, "Short.", "<|endoftext|>The ferry", prose[7:80])],
        "sentences": [
            {"prompt": prose[start : start + 9 + 23 * (start % 9)] * (1 + start % 2), "target": prose[start + 40 :]}
            for start in range(1, 120, 10)
        ],
    }
    for name, text in TASKS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        lines = [
            f"task: {name}", "dataset_path: json", "test_split: test", "fewshot_split: test", "metadata: {version: 2}",
            f"dataset_kwargs: {{data_files: {{test: {tmp_path / name}.jsonl}}}}",
        ]  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text("\n".join([*lines, *(line.strip() for line in text.splitlines())]))
    return tmp_path


def request(exported: Path, tasks: Path, *names: str, **options: int) -> TasksRequest:
    return TasksRequest(ModelRequest(str(exported), device="cpu"), names, include_path=str(tasks), **options)


@pytest.fixture
def ours(exported: Path, tasks: Path) -> Callable[..., dict[tuple[str, str], tuple[float | None, float | None]]]:
    def run(names: tuple[str, ...], **options: int) -> dict:
        scores = evaluate_tasks(request(exported, tasks, *names, **options)).evaluation.scores
        return {(score.task, f"{score.metric},{score.filter}"): (score.value, score.stderr) for score in scores}

    return run


@pytest.fixture(scope="module")
def hugging_face(exported: Path) -> Any:
    """lm-eval's own model, `--model hf`, which takes more packages than lm-eval itself (`lm_eval[hf]`)."""
    for package in ("transformers", "accelerate", "peft"):
        pytest.importorskip(package)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(exported), device="cpu", batch_size=1)


@pytest.fixture
def theirs(hugging_face: Any, tasks: Path) -> Callable[..., dict]:
    """lm-eval's own results table."""

    def run(names: tuple[str, ...], **options: int) -> dict:
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        found = lm_eval.simple_evaluate(
            hugging_face, tasks=list(names), task_manager=manager, log_samples=False, **options
        )
        return found["results"]

    return run


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("letters", {}),
        ("letters", {"num_fewshot": 3}),
        ("letters", {"limit": 5, "num_fewshot": 1}),
        ("texts", {}),
        ("sentences", {}),
        ("sentences", {"num_fewshot": 1}),
    ],
)
def test_numbers_are_those_of_lm_eval_on_the_exported_model(
    ours: Callable, theirs: Callable, name: str, options: dict
) -> None:
    found, expected = ours((name,), batch_size=5, **options), theirs((name,), **options)[name]
    assert found
    for (_, key), (value, stderr) in found.items():
        assert value == pytest.approx(expected[key], abs=5e-5), key
        other = expected[key.replace(",", "_stderr,")]
        assert stderr == (None if other == "N/A" else pytest.approx(other, abs=5e-5)), key


def test_choices_of_our_own_have_the_accuracies_of_the_task_of_the_same_rows(
    ours: Callable, exported: Path, tasks: Path
) -> None:
    model = ModelRequest(str(exported), device="cpu")
    evaluation = evaluate_choice_file(ChoicesRequest(model, str(tasks / "letters.jsonl"))).evaluation
    expected = ours(("letters",))
    assert evaluation.accuracy == expected["letters", "acc,none"][0]
    assert evaluation.accuracy_by_bytes == expected["letters", "acc_bytes,none"][0]
    assert evaluation.cut_rows > 0


@pytest.mark.parametrize("begins", ["not", "by its template", "by its settings"])
def test_a_text_is_encoded_as_transformers_does(
    exported: Path, model: GPT, prose: str, tmp_path: Path, begins: str
) -> None:
    """Whether or not the tokenizer puts a token before every text; what is written as a special token is one."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from gptcli.evaluate.harness import HarnessModel
    from gptcli.tokenizer.tokenizer import load_tokenizer

    shutil.copytree(exported, tmp_path / "model")
    if begins != "not":
        backend = load_tokenizer(exported).backend
        end = "<|endoftext|>"
        special = [(end, backend.token_to_id(end))]
        backend.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=special)
        backend.save(str(tmp_path / "model" / "tokenizer.json"))
    if begins == "by its settings":
        path = tmp_path / "model" / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": True}))
    ours = HarnessModel(model, load_tokenizer(tmp_path / "model"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in (prose, "", " a", "before <|endoftext|> after"):
        assert ours.tok_encode(text) == theirs.encode(text), text
        assert ours.tok_encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.tok_encode("<|endoftext|>x") == theirs.encode("<|endoftext|>x", add_special_tokens=False)


def test_what_is_cut_is_said(ours: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    ours(("letters",))
    assert "requests are longer than the model's context of 64 tokens" in capsys.readouterr().err


def test_a_task_file_is_a_task_and_a_pattern_names_several(ours: Callable, tasks: Path) -> None:
    both = ours(("*t*ers", "texts"))
    assert {task for task, _ in both} == {"letters", "texts"}
    assert ours((str(tasks / "letters.yaml"),))["letters", "acc,none"] == both["letters", "acc,none"]


def test_a_generation_is_cut_as_lm_eval_does(exported: Path, hugging_face: Any, prose: str) -> None:
    """Whatever the stop strings: one within a token, one over several, two of which one holds the other."""
    from lm_eval.api.instance import Instance

    from gptcli.evaluate.harness import HarnessModel
    from gptcli.interop.load import load_model

    loaded = load_model(exported)
    arguments = [
        {"until": until, "max_gen_toks": 30, **more}
        for until in (["e"], "he f", ["ferry", "rry"], [], ["\n\n", "."])
        for more in ({}, {"do_sample": False, "temperature": 0.7}, {"repetition_penalty": 1.5})
    ]
    requests = [
        Instance("generate_until", {}, (context, argument), 0, ("task", 0, 1))
        for argument in arguments
        for context in (prose[:40], prose[60:90], prose[140:175], "The", "A", "he")
    ]
    found = HarnessModel(loaded.model, loaded.tokenizer).generate_until(requests)
    assert found == hugging_face.generate_until(requests, disable_tqdm=True)
    assert len(set(found)) > 10


def test_drawn_answers_depend_on_their_place_only(exported: Path, prose: str) -> None:
    from lm_eval.api.instance import Instance

    from gptcli.evaluate.harness import HarnessModel
    from gptcli.interop.load import load_model

    loaded = load_model(exported)
    arguments = {"until": [], "max_gen_toks": 20, "do_sample": True, "temperature": 3.0, "top_k": 40}
    requests = [Instance("generate_until", {}, (prose[:40], arguments), 0, ("task", 0, 1)) for _ in range(8)]
    together = HarnessModel(loaded.model, loaded.tokenizer).generate_until(requests)
    assert together == HarnessModel(loaded.model, loaded.tokenizer, batch_size=1).generate_until(requests)
    assert len(set(together)) >= 3


@pytest.mark.parametrize(
    ("name", "change", "error", "named"),
    [
        ("leters", {}, UsageError, "did you mean letters"),
        ("sentences", {"max_gen_toks: 12": "max_gen_toks: 64"}, UsageError, "64 tokens"),
        ("sentences", {"do_sample: false": "num_beams: 2"}, UsageError, "num_beams"),
        ("letters", {"letters.jsonl": "absent.jsonl"}, DataError, "task letters cannot be loaded"),
    ],
)
def test_a_task_that_cannot_be_run_is_one_line(
    ours: Callable, tasks: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: dict, error: type, named: str
) -> None:
    from lm_eval.tasks import TaskManager

    def own_only(include_path: str, include_defaults: bool) -> TaskManager:
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("gptcli.evaluate.harness.TaskManager", own_only)  # lm-eval's own files take seconds to read
    file = tasks / "sentences.yaml" if name == "sentences" else tasks / "letters.yaml"
    for old, new in change.items():
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    with pytest.raises(error, match=named) as raised:
        ours((name,))
    assert "\n" not in str(raised.value)


def test_scores_are_shown_as_a_table_and_as_json(exported: Path, tasks: Path) -> None:
    report = evaluate_tasks(request(exported, tasks, "texts", "letters", limit=3))
    lines = report.text().splitlines()
    header = ["task", "metric", "filter", "value", "stderr", "95", "%", "interval", "shots", "samples", "version"]
    assert lines[2].split() == header
    assert len(lines) == 3 + 6
    assert any(line.split()[:2] == ["letters", "acc_norm"] and "±" in line for line in lines)
    results = json.loads(json.dumps(report.as_dict()))["results"]
    assert results[0].keys() == {
        "task", "metric", "filter", "value", "stderr", "interval", "num_fewshot", "samples", "version",
    }  # fmt: skip
    assert {result["samples"] for result in results} == {3}


def test_few_rows_have_a_wide_interval_even_if_all_are_right() -> None:
    """lm-eval's standard error is 0 there."""
    from gptcli.evaluate.harness import HarnessEvaluation, TaskScore

    right = TaskScore("t", "acc", "none", 1.0, 0.0, 0, 2, "1")
    sure = TaskScore("t", "perplexity", "none", 135.5253, 5.6, 0, 2, None)
    table = TaskReport(HarnessEvaluation((right, sure), 1.0), "m").text().splitlines()
    assert table[3].split() == ["t", "acc", "none", "1.00", "0.34", "to", "1.00", "0", "2", "1"]
    assert table[4].split() == ["t", "perplexity", "none", "136", "±", "6", "125", "to", "147", "0", "2"]
    assert TaskReport(HarnessEvaluation((right,), 1.0), "m").as_dict()["results"][0]["interval"][0] == pytest.approx(
        0.3424, abs=1e-4
    )


def test_without_lm_eval_the_extra_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lm_eval", "gptcli.evaluate.harness"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delattr("gptcli.evaluate.harness", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'gptcli\[eval\]'"):
        evaluate_tasks(TasksRequest(ModelRequest(str(exported)), ("letters",)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("letters", {"num_fewshot": 2}), ("sentences", {})])
def test_questions_as_messages_have_the_numbers_of_lm_eval(
    tasks: Path, bpe_tokenizer: Tokenizer, tmp_path: Path, name: str, options: dict
) -> None:
    """The answers of a model of random weights to conversations of its template, some longer than its context."""
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    template = ChatTemplate.of_model(bpe_tokenizer, "chatml")
    tokenizer = bpe_tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    torch.manual_seed(1)
    shape = {"context_length": 256, "n_layer": 1, "n_head": 2, "n_embd": 32, "init_std": 0.3}
    write_huggingface(build_model(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer, tmp_path / "chat")
    request = TasksRequest(
        ModelRequest(str(tmp_path / "chat"), device="cpu"), (name,), include_path=str(tasks), apply_chat_template=True,
        **options,
    )  # fmt: skip
    found = evaluate_tasks(request).evaluation.scores
    expected = lm_eval.simple_evaluate(
        HFLM(pretrained=str(tmp_path / "chat"), device="cpu", batch_size=1), tasks=[name], log_samples=False,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), apply_chat_template=True, **options,
    )["results"][name]  # fmt: skip
    assert found
    for score in found:
        assert score.value == pytest.approx(expected[f"{score.metric},{score.filter}"], abs=5e-5), score.metric


def test_the_ids_of_a_question_are_those_of_training(bpe_tokenizer: Tokenizer, model: GPT) -> None:
    from gptcli.evaluate.chat_harness import ChatHarnessModel

    template = ChatTemplate.of_model(bpe_tokenizer, "chatml")
    tokenizer = bpe_tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    asked = [{"role": "user", "content": "What is <|im_end|>?"}]
    with ChatEncoder(ChatTemplate.of_model(tokenizer, "model"), tokenizer) as encoder:
        chat = ChatHarnessModel(model, encoder)
        text = chat.apply_chat_template(asked)
        assert text.endswith("<|im_start|>assistant\n") and chat.tok_encode(text) == encoder.prompt(asked, "it")
        trained = encoder.conversation([*asked, {"role": "assistant", "content": "The end."}], "it").ids.tolist()
        context, continuation = chat._encode_pair(text, "The end.")
        assert context + continuation == trained[: len(context + continuation)]
        begun = chat.apply_chat_template([*asked, {"role": "assistant", "content": "The"}], add_generation_prompt=False)
        assert begun == f"{text}The" and chat.tok_encode(begun) == [
            *encoder.prompt(asked, "it"),
            *tokenizer.encode("The"),
        ]


def test_a_template_without_system_messages_leaves_them_out(
    bpe_tokenizer: Tokenizer, model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    from gptcli.evaluate.chat_harness import ChatHarnessModel

    source = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "{{ m['content'] + '\n' }}{% endfor %}"
    )
    tokenizer = bpe_tokenizer.with_chat_template(source)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    with ChatEncoder(ChatTemplate.of_model(tokenizer, "model"), tokenizer) as encoder:
        chat = ChatHarnessModel(model, encoder)
        assert [chat.apply_chat_template(messages) for _ in range(2)] == ["Who?\n"] * 2
        assert capsys.readouterr().err.count("the chat template refuses system messages") == 1
        with pytest.raises(DataError):
            chat.apply_chat_template([{"role": "user"}])
