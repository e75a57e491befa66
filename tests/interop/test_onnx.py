"""onnxruntime computes from the graph what the model computes, for every length and number of rows."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.interop import onnx as writing
from gptcli.interop.export import ExportRequest, export
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.onnx import write_onnx

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

MODELS = {
    "qwen3, grouped": {"n_kv_head": 2},
    "gpt2": {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "bias": True, "qk_norm": False},
    "windows": {"window_pattern": (0, 9), "qk_norm": False, "tie_embeddings": False},
    "fast": {"smear": True, "bigram_buckets": 50, "logit_softcap": 5.0, "rotary_fraction": 0.5},
}


def run(path: Path, ids: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input_ids": ids.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("slots", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_any_batch_and_length_give_the_models_logits(our_model, tmp_path, slots):
    model = our_model(**{"n_layer": 2} | slots)
    assert write_onnx(model, tmp_path / "model.onnx") == ()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    for shape in ((1, 1), (3, 2), (2, 9), (1, 10), (2, 64)):
        ids = torch.randint(257, shape, generator=torch.Generator().manual_seed(shape[1]))
        torch.testing.assert_close(run(tmp_path / "model.onnx", ids), model(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("slots", [{"window_pattern": (63,)}, {"context_length": 2}], ids=str)
def test_a_context_too_short_to_leave_lengths_open_is_refused(our_model, tmp_path, slots):
    with pytest.raises(UsageError, match="--to onnx needs a context longer than"):
        write_onnx(our_model(**slots), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@torch.no_grad()
def test_large_weights_lie_beside_the_graph(our_model, some_ids, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LARGEST_FILE", 1000)
    model = our_model(n_layer=1)
    (tmp_path / "model.onnx.0badc0de.data").touch()  # of an export that was killed
    for _ in range(2):
        (note,) = write_onnx(model, tmp_path / "model.onnx")
        graph, weights = sorted(path.name for path in tmp_path.iterdir())
        assert graph == "model.onnx" and fnmatch(weights, "model.onnx.*.data") and "model.onnx.*.data" in note
        assert not weights.endswith("0badc0de.data")
    torch.testing.assert_close(run(tmp_path / "model.onnx", some_ids), model(some_ids), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_an_export_in_half_precision_is_proved_by_onnxruntime(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(n_layer=1), tokenizer, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "onnx", tmp_path / "out" / "model.onnx", dtype="f16"))
    assert exported.checks[0].reader.startswith("onnxruntime")
    assert 1e-5 < exported.checks[0].max_difference < 0.1
    graph = onnx.load(str(tmp_path / "out" / "model.onnx")).graph
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}
