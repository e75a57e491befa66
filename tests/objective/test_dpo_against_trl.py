"""trl's DPOTrainer as the reference: the same losses and rewards on the same pairs and weights, step after step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcli.data.batch import Batch
from gptcli.data.examples.sequences import ExampleSequences
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.objective.config import DPOConfig
from gptcli.objective.dpo import DPO
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.strategy import Alone
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.step import Stepper

BETA, RATE, STEPS, SEQ_LEN, VOCABULARY = 0.4, 3e-3, 5, 48, 257
PAIRS = 12


def pairs_of_answers() -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) as ids, of many lengths."""
    random = np.random.default_rng(0)
    return [
        tuple(random.integers(0, VOCABULARY, random.integers(1, most)).tolist() for most in (9, 7, 12))
        for _ in range(PAIRS)
    ]


def written(folder: Path, pairs: list[tuple[list[int], list[int], list[int]]]) -> TokenShards:
    with ShardWriter(folder, VOCABULARY, DocumentFraming(None), "bytes", masked=True) as writer:
        writer.unit_documents = 2
        for prompt, *answers in pairs:
            for answer in answers:
                ids, size = np.array(prompt + answer, dtype=np.uint32), np.array([len(prompt + answer)])
                writer.add_examples(ids, np.arange(len(ids)) >= len(prompt), size, size)
    return TokenShards.open(folder)


def compared(shards: TokenShards, model: GPT) -> ExampleSequences:
    """The rows of the pairs, with the nats of the model."""
    sequences, nats = ExampleSequences(shards, SEQ_LEN, seed=0), np.zeros(len(shards), dtype=np.float32)
    rows = range(sequences.sequences_per_epoch)
    with torch.no_grad():
        sequences.put_back(rows, model.token_losses(*sequences.batch(rows).model_inputs).numpy(), nats)
    return ExampleSequences(shards.with_reference(nats), SEQ_LEN, seed=0)


def pairs_in(batch: Batch, sequences: ExampleSequences, rows: list[int]) -> list[int]:
    return [document.number // 2 for row in rows for document in list(sequences.documents(row))[::2]]


def trl_trainer(folder: Path) -> Any:
    """A DPOTrainer whose model and reference are that of the folder."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig as Arguments
    from trl import DPOTrainer

    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    arguments = Arguments(
        output_dir=str(folder / "trl"), report_to=[], use_cpu=True, bf16=False, beta=BETA, max_length=None
    )
    return DPOTrainer(policy, reference, arguments, train_dataset=data, processing_class=tokenizer)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_losses_rewards_and_weights_are_those_of_trl_over_several_steps(tmp_path: Path) -> None:
    model = build_model(ModelConfig(vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=32, context_length=64), seed=3)
    write_huggingface(model, build_tokenizer(ByteTokenizerConfig(), []), tmp_path / "base")
    trainer = trl_trainer(tmp_path / "base")
    theirs = trainer.model.eval()
    pairs = pairs_of_answers()
    sequences = compared(written(tmp_path / "shards", pairs), model)
    settings = AdamWConfig(lr=RATE, weight_decay=0.0)
    optimizer = torch.optim.AdamW(theirs.parameters(), RATE, (settings.beta1, settings.beta2), settings.eps, 0.0)
    strategy = Alone(model, objective=DPO(DPOConfig(beta=BETA)))
    ours = Stepper(
        strategy,
        build_optimizer(strategy.infos, settings),
        device=torch.device("cpu"),
        precision="fp32",
        grad_clip=0.0,
    )
    rows = sequences.sequences_per_epoch
    for step in range(STEPS):
        chosen_rows = [2 * step % rows, (2 * step + 1) % rows]
        batch = sequences.batch(chosen_rows)
        found = ours.run(batch.split(1))
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        examples = [dict(zip(names, pairs[pair], strict=True)) for pair in pairs_in(batch, sequences, chosen_rows)]
        trainer._metrics["train"].clear()
        loss = trainer._compute_loss(theirs, trainer.data_collator(examples), return_outputs=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metrics = next(iter(kind for kind in trainer._metrics.values() if kind))
        keys = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
        assert found.loss == pytest.approx(loss.item(), abs=1e-5)
        assert found.figures[:3] == pytest.approx([metrics[key][-1] for key in keys[:3]], abs=1e-5)
        assert step == 0 or found.figures[3] == pytest.approx(metrics[keys[3]][-1])
    assert found.loss < 0.5, "the steps went somewhere"
    whole = dict(theirs.named_parameters())
    torch.testing.assert_close(model.embedding.weight, whole["model.embed_tokens.weight"], rtol=0, atol=1e-5)
