"""Training, evaluation, generation and export agree on how a document begins and ends, whatever the tokenizer has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_files import write_rows
from gptcli.data.shards import TokenShards
from gptcli.evaluate.choices import ChoiceRow, encode_row
from gptcli.evaluate.requests import TextsRequest, evaluate_texts
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import encode_prompt
from gptcli.interop.load import LoadedModel, load_model
from gptcli.nn.loss import token_losses
from gptcli.session import ModelRequest
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.train.run import TrainRequest, train
from special_tokens import with_specials

BOS, EOS = "<s>", "</s>"
FRAMINGS = {
    "both": ({"bos_token": BOS, "eos_token": EOS}, DocumentFraming(256, 257)),
    "bos only": ({"bos_token": BOS, "eos_token": None}, DocumentFraming(256)),
    "eos only": ({"bos_token": None, "eos_token": EOS}, DocumentFraming(257)),
    "neither": ({"bos_token": None, "eos_token": None}, DocumentFraming(None)),
}
SETTINGS = (
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=128", "train.max_steps=4",
    "train.tokens_per_step=256", "train.batch_size=2", "optim.name=adamw", "optim.lr=0.03", "schedule.warmup_steps=1",
    "data.pack=document", "train.precision=fp32", "device=cpu", "train.sample_every_steps=100",
)  # fmt: skip
VALIDATED = ["The owl counts three.", "A cat sleeps.", "Dogs bark at the moon."]


def train_on_rows(folder: Path, settings: dict) -> dict:
    """Train on 60 short documents with a tokenizer of these settings; the validation split is one window."""
    (folder / "tokenizer").mkdir(exist_ok=True)
    with_specials(BOS, EOS).save(str(folder / "tokenizer" / "tokenizer.json"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    trained = [f"Line {n}: the {('cat', 'dog', 'owl')[n % 3]} counts {n}." for n in range(60)]
    texts = {"train": trained, "val": VALIDATED}
    for name, part in texts.items():
        write_rows(folder / f"{name}.jsonl", part)
    named = (f"data.val={folder / 'val.jsonl'}", f"data.tokenizer=file:{folder / 'tokenizer'}")
    corpus = (str(folder / "train.jsonl"),)
    return train(TrainRequest(corpus, assignments=(*SETTINGS, *named), out=folder / "run"))


def losses(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Nats of ids[1:], each after those before it."""
    row = torch.tensor([ids])
    with torch.no_grad():
        return token_losses(loaded.model(row[:, :-1]), row[:, 1:])[0].double()


@pytest.mark.parametrize("name", FRAMINGS)
def test_one_framing_from_the_shards_to_the_export(tmp_path: Path, name: str) -> None:
    settings, framing = FRAMINGS[name]
    summary = train_on_rows(tmp_path, settings)
    run, loaded = tmp_path / "run", load_model(tmp_path / "run")
    tokenizer, shards = loaded.tokenizer, TokenShards.open(run / "val")

    assert tokenizer.framing == shards.framing == framing
    framed = [[*framing.before, *text.encode(), *framing.after] for text in VALIDATED]
    alphabet = tokenizer.encode(bytes(range(128)).decode())
    framed = [[id if id > 255 else alphabet[id] for id in ids] for ids in framed]
    assert shards.read(0, len(shards)).tolist() == [id for ids in framed for id in ids]

    # What training reports is the mean over these documents, each by itself; so is what `eval` sums, without the ends.
    nats = [losses(loaded, ids) for ids in framed]
    # A token that both ends a text and begins the next is predicted from the text before, but for the first.
    between = [losses(loaded, [*ids, *framing.before])[-1:] for ids in framed[:-1]] if not framing.after else []
    between = between if framing.before else []
    assert summary["val_loss"] == pytest.approx(torch.cat([*nats, *between]).mean().item(), rel=1e-5)
    evaluation = evaluate_texts(TextsRequest(ModelRequest(str(run), device="cpu"))).evaluation
    of_text = torch.cat([one[: len(one) - len(framing.after)] for one in nats])
    assert evaluation.totals.nats == pytest.approx(of_text.sum().item(), rel=1e-5)
    assert evaluation.prefix == (tokenizer.token_text(framing.begin_id) if framing.before else None)

    (tmp_path / "one.jsonl").write_text(json.dumps({"text": VALIDATED[0]}))
    text = str(tmp_path / "one.jsonl")
    again = evaluate_texts(TextsRequest(ModelRequest(str(run), device="cpu"), (text,))).evaluation
    assert again.totals.nats == pytest.approx(nats[0][: len(nats[0]) - len(framing.after)].sum().item(), rel=1e-5)

    if framing.before:
        row = ChoiceRow("", ("yes", "no"), 0, "row 1")
        assert [one.context for one in encode_row(tokenizer, "", row, 128)] == [tuple(framing.before)] * 2
    config = GenerationConfig(document_start=bool(framing.before))
    assert encode_prompt(tokenizer, VALIDATED[0], config, "it") == framed[0][: len(framed[0]) - len(framing.after)]
    exported = json.loads((run / "generation_config.json").read_text())
    assert (exported["bos_token_id"], exported["eos_token_id"]) == (framing.begin_id, framing.stop_id)


def test_a_run_from_before_framings_were_recorded_keeps_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Such a run has a separate bos token that its training has never shown."""
    settings, _ = FRAMINGS["both"]
    run, old = tmp_path / "run", DocumentFraming(257)
    train_on_rows(tmp_path, {"bos_token": None, "eos_token": EOS})
    (run / "gptcli-manifest.json").unlink()  # such a run has none
    config = json.loads((run / "tokenizer_config.json").read_text())
    (run / "tokenizer_config.json").write_text(json.dumps(config | settings))
    report = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({key: value for key, value in report.items() if key != "framing"}))
    capsys.readouterr()
    loaded = load_model(run)
    assert loaded.tokenizer.framing == old and not loaded.tokenizer.adds_bos
    assert "by an earlier version with </s> before each document, not <s>" in capsys.readouterr().err
