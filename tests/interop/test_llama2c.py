"""llama2.c's files against the arithmetic of its run.c, written down again here in float64."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptcli.errors import CheckpointError
from gptcli.interop.import_model import import_model
from gptcli.interop.llama2c import read_llama2c
from gptcli.interop.load import load_model

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 24, 40, 2, 4, 2, 16
WIDTH = DIM // HEADS


def draw(vocab_size: int, tied: bool) -> dict[str, Tensor]:
    """The weights in the order in which the file holds them, lively."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embedding": (vocab_size, DIM),
        "attention_norm": (LAYERS, DIM),
        "wq": (LAYERS, DIM, DIM),
        "wk": (LAYERS, KV_HEADS * WIDTH, DIM),
        "wv": (LAYERS, KV_HEADS * WIDTH, DIM),
        "wo": (LAYERS, DIM, DIM),
        "ffn_norm": (LAYERS, DIM),
        "w1": (LAYERS, HIDDEN, DIM),
        "w2": (LAYERS, DIM, HIDDEN),
        "w3": (LAYERS, HIDDEN, DIM),
        "final_norm": (DIM,),
        "angles": (2, CONTEXT, WIDTH // 2),
    } | ({} if tied else {"head": (vocab_size, DIM)})
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if "norm" not in name else 1.0)
        for name, shape in shapes.items()
    }


def write(path: Path, weights: dict[str, Tensor]) -> None:
    vocab_size = weights["embedding"].shape[0] * (-1 if "head" in weights else 1)
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocab_size, CONTEXT)
    path.write_bytes(header + b"".join(tensor.numpy().tobytes() for tensor in weights.values()))


def run_c(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The logits after every token, one position at a time, neighbouring numbers turned by RoPE."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean() + 1e-5).sqrt()

    def turn(vector: Tensor, position: int) -> Tensor:
        turned = vector.clone()
        for i in range(0, len(vector), 2):
            angle = torch.tensor(position / 10000.0 ** ((i % WIDTH) / WIDTH), dtype=torch.float64)
            a, b = vector[i], vector[i + 1]
            turned[i], turned[i + 1] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return turned

    keys, values = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)]
    logits = []
    for position, token in enumerate(ids):
        x = w["embedding"][token]
        for layer in range(LAYERS):
            y = norm(x, w["attention_norm"][layer])
            q = turn(w["wq"][layer] @ y, position).view(HEADS, WIDTH)
            keys[layer].append(turn(w["wk"][layer] @ y, position).view(KV_HEADS, WIDTH))
            values[layer].append((w["wv"][layer] @ y).view(KV_HEADS, WIDTH))
            k, v = torch.stack(keys[layer]), torch.stack(values[layer])  # (position + 1, KV_HEADS, WIDTH)
            read = []
            for head in range(HEADS):
                group = head // (HEADS // KV_HEADS)
                attention = (k[:, group] @ q[head] / WIDTH**0.5).softmax(0)
                read.append(attention @ v[:, group])
            x = x + w["wo"][layer] @ torch.cat(read)
            y = norm(x, w["ffn_norm"][layer])
            x = x + w["w2"][layer] @ (torch.nn.functional.silu(w["w1"][layer] @ y) * (w["w3"][layer] @ y))
        logits.append(w.get("head", w["embedding"]) @ norm(x, w["final_norm"]))
    return torch.stack(logits)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_an_imported_model_computes_what_run_c_does(tokenizer, tmp_path, tied: bool) -> None:
    weights = draw(tokenizer.vocab_size, tied)
    write(tmp_path / "stories.bin", weights)
    tokenizer.save(tmp_path / "tokenizer")
    opened = import_model(str(tmp_path / "stories.bin"), tmp_path / "model", str(tmp_path / "tokenizer")).opened
    assert "LlamaForCausalLM" in opened
    ids = torch.randint(tokenizer.vocab_size, (CONTEXT,), generator=torch.Generator().manual_seed(1))
    found = load_model(tmp_path / "model", dtype=torch.float64).model(ids[None])[0]
    expected = run_c(weights, ids.tolist())
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # its angles are in fp32


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[:-4], "bytes but should have"),
        (lambda content: content + b"0000", "bytes but should have"),
        (lambda content: content[:20], "too short"),
        (lambda content: struct.pack("<I", 0x616B3432) + content, "version 1 or 2"),
        (lambda content: b"\0" * 28 + content[28:], "it is not a model of llama2.c"),
        (lambda content: struct.pack("<i", -DIM) + content[4:], "it is not a model of llama2.c"),
        (lambda content: struct.pack("<7i", *[2**26] * 7) + content[28:], "llama2.c"),
        (lambda content: b"text " * 100, "llama2.c"),
    ],
)
def test_what_is_no_model_of_llama2c_is_refused_in_one_line(tokenizer, tmp_path, spoil, words: str) -> None:
    write(tmp_path / "stories.bin", draw(tokenizer.vocab_size, True))
    (tmp_path / "stories.bin").write_bytes(spoil((tmp_path / "stories.bin").read_bytes()))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_llama2c(tmp_path / "stories.bin")
    assert "\n" not in str(caught.value)
