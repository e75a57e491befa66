"""Prompts to texts: what is read, what ends a text, and that each sample can be had again from its seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gptcli.errors import CheckpointError, DataError, TokenizerError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.listener import Listener
from gptcli.generate.requests import Request
from gptcli.generate.text import generate
from gptcli.models.gpt import GPT
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer


@pytest.fixture
def model(make_model: Callable[..., GPT], tokenizer: Tokenizer) -> GPT:
    return make_model(vocab_size=tokenizer.vocab_size, context_length=64)


def drawn(model: GPT, ids: list[int], config: GenerationConfig, stop_id: int | None) -> list[int]:
    """What the engine draws after exactly these ids."""
    request = Request(ids, config.params(), stop_ids=[] if stop_id is None else [stop_id])
    for _ in Engine(model).run([request]):
        pass
    return request.ids[len(ids) :]


def test_streamed_pieces_are_the_text_of_the_tokens(model: GPT, tokenizer: Tokenizer) -> None:
    """An untrained byte model writes few valid characters: what it writes is what decoding all tokens at once gives."""
    config = GenerationConfig(max_new_tokens=150, temperature=0.7, num_samples=4)
    pieces: dict[int, list[str]] = {}
    ended: list[int] = []

    class Recorder(Listener):
        def on_text(self, number: int, piece: str) -> None:
            pieces.setdefault(number, []).append(piece)

        def on_end(self, number: int) -> None:
            ended.append(number)

    result = generate(model, tokenizer, ["caf\u00e9", "\U0001f600"], config, Recorder())
    completions = [completion for prompt in result.prompts for completion in prompt.completions]
    assert sorted(ended) == list(range(8))
    for number, completion in enumerate(completions):
        assert completion.text == "".join(pieces.get(number, []))
        assert completion.text == tokenizer.decode(completion.tokens)
        assert len(completion.tokens) == len(completion.logprobs)
        assert all(logprob <= 0 for logprob in completion.logprobs)
    assert result.token_count == sum(len(completion.tokens) for completion in completions)
    assert result.tokens_per_second > 0


def test_each_sample_can_be_had_again_from_its_seed_alone(model: GPT, tokenizer: Tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=90, seed=7, num_samples=3, top_p=0.9)
    for prompt in generate(model, tokenizer, ["To be", "or not to be, that is"], config).prompts:
        for i, completion in enumerate(prompt.completions):
            assert completion.seed == 7 + i
            alone = config.model_copy(update={"seed": completion.seed, "num_samples": 1})
            again = generate(model, tokenizer, [prompt.prompt.content], alone).prompts[0].completions[0]
            assert (again.tokens, again.text, again.finish_reason) == (
                completion.tokens,
                completion.text,
                completion.finish_reason,
            )


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(model: GPT, tokenizer: Tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=120, seed=3)
    whole = generate(model, tokenizer, ["a"], config).prompts[0].completions[0]
    string = whole.text[40:46]  # 6 characters, each of one byte or more
    stopped = generate(model, tokenizer, ["a"], config.model_copy(update={"stop": ("never there", string)}))
    completion = stopped.prompts[0].completions[0]
    assert completion.finish_reason == "stop"
    assert completion.text == whole.text[: whole.text.index(string)]
    assert completion.tokens == whole.tokens[: len(completion.tokens)]
    assert tokenizer.decode(completion.tokens) == completion.text + string, "no token is drawn after the stop string"


def test_the_report_has_the_documented_keys(model: GPT, tokenizer: Tokenizer) -> None:
    result = generate(model, tokenizer, ["a"], GenerationConfig(max_new_tokens=3))
    report = result.report(several=False)
    assert list(report) == ["prompt", "completions", "tokens_per_second"]
    assert list(report["completions"][0]) == ["text", "tokens", "logprobs", "finish_reason", "seed"]
    several = result.report(several=True)
    assert list(several) == ["results", "tokens_per_second"]
    assert several["results"] == [{"prompt": "a", "completions": report["completions"]}]


def test_an_empty_prompt_begins_a_document(model: GPT, tokenizer: Tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=20)
    completion = generate(model, tokenizer, [""], config).prompts[0].completions[0]
    assert completion.tokens == drawn(model, [tokenizer.eos_id], config, tokenizer.eos_id)


def test_a_prompt_is_read_as_the_tokenizer_encodes_it_unless_it_begins_a_document(
    model: GPT, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("Once")
    for begins, expected in ((False, ids), (True, [tokenizer.eos_id, *ids])):
        config = GenerationConfig(max_new_tokens=20, document_start=begins)
        completion = generate(model, tokenizer, ["Once"], config).prompts[0].completions[0]
        assert completion.tokens == drawn(model, expected, config, tokenizer.eos_id)


def test_a_tokenizer_that_puts_a_token_before_every_text_still_does(
    make_model: Callable[..., GPT], tmp_path: Path
) -> None:
    """As Llama's does; a token that it puts after a text is not put between prompt and continuation."""
    import tokenizers

    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    config = GenerationConfig(max_new_tokens=20, temperature=1.0)
    model = make_model()
    completion = generate(model, load_tokenizer(tmp_path), ["a b"], config).prompts[0].completions[0]
    assert completion.tokens == drawn(model, [0, 3, 4], config, None)[: len(completion.tokens)]


def test_the_space_between_prompt_and_text_is_kept(make_model: Callable[..., GPT], tmp_path: Path) -> None:
    """A decoder that drops the space before the first word of a text must not take ours for the first word."""
    import tokenizers

    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"\u2581w{i}": i for i in range(29)}, unk_token="\u2581w0")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    completion = generate(make_model(), load_tokenizer(tmp_path), ["w3 w4"], GenerationConfig(max_new_tokens=30))
    sample = completion.prompts[0].completions[0]
    assert sample.text == "".join(f" w{token}" for token in sample.tokens)


def test_a_prompt_longer_than_the_context_is_cut_with_a_note_or_refused(
    model: GPT, tokenizer: Tokenizer, capsys: pytest.CaptureFixture
) -> None:
    prompt = "x" * 30 + "the end of a long prompt " * 4
    config = GenerationConfig(max_new_tokens=5, temperature=0.0)
    completion = generate(model, tokenizer, [prompt], config).prompts[0].completions[0]
    assert "the prompt has 130 tokens: only its last 64 are read" in capsys.readouterr().err
    assert completion.tokens == drawn(model, tokenizer.encode(prompt)[-64:], config, tokenizer.eos_id)
    with pytest.raises(DataError, match="prompt 2 has 130 tokens, more than the model's context of 64"):
        generate(model, tokenizer, ["fits", prompt], GenerationConfig(overflow="stop"))


def test_prompts_that_cannot_be_represented_are_clear_errors(make_model: Callable[..., GPT]) -> None:
    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter(["abc"]))
    with pytest.raises(TokenizerError, match=r"prompt 2: .*z"):
        generate(make_model(), tokenizer, ["abc", "abz"], GenerationConfig())
    with pytest.raises(TokenizerError, match=r"the prompt: .*surrogate U\+DCFF"):
        generate(make_model(), tokenizer, ["a\udcff"], GenerationConfig())


def test_a_tokenizer_of_another_model_is_a_clear_error(make_model: Callable[..., GPT], tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="the model has 29 tokens"):
        generate(make_model(vocab_size=29), tokenizer, ["zzz"], GenerationConfig())


SHAPES = {
    "qwen3": {"n_kv_head": 2},
    "llama": {"qk_norm": False, "tie_embeddings": False},
    "gpt2": {
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "position": "learned",
        "mlp": "gelu_tanh",
        "qk_norm": False,
        "bias": True,
        "n_kv_head": None,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_text_is_that_of_transformers(
    make_model: Callable[..., GPT], tokenizer: Tokenizer, tmp_path: Path, shape: str
) -> None:
    """The same weights written as a Hugging Face directory; our prompts in one ragged batch, theirs one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gptcli.interop.huggingface import write_huggingface

    settings = {"vocab_size": tokenizer.vocab_size, "context_length": 128, "n_kv_head": 4, "tie_embeddings": True}
    model = make_model(torch.float32, **(settings | SHAPES[shape]))
    write_huggingface(model, tokenizer, tmp_path)
    their_model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompts = ["Once upon a time", "x", "caf\u00e9 and tea, then a longer walk", "To be"]
    for penalty in (1.0, 1.3):
        config = GenerationConfig(max_new_tokens=64, temperature=0.0, repetition_penalty=penalty)
        ours = generate(model, tokenizer, prompts, config)
        for prompt in ours.prompts:
            inputs = their_tokenizer(prompt.prompt.content, return_tensors="pt")
            theirs = their_model.generate(
                inputs.input_ids,
                attention_mask=torch.ones_like(inputs.input_ids),
                max_new_tokens=64,
                do_sample=False,
                repetition_penalty=penalty,
                eos_token_id=tokenizer.eos_id,
                pad_token_id=tokenizer.eos_id,
            )
            assert prompt.completions[0].tokens == theirs[0, inputs.input_ids.shape[1] :].tolist()
