"""`/v1/embeddings`, against transformers on the exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openai
import pytest
import torch

from gptcli.interop.huggingface import write_huggingface
from gptcli.session import Session

CONTINUES = "continues"
TEXTS = ("The ferry left at nine.", "She never left anything", "café")


@pytest.mark.slow  # transformers takes seconds to load
def test_a_vector_is_the_mean_of_the_last_hidden_states(
    client: openai.OpenAI, continuing: Session, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    write_huggingface(continuing.model, continuing.tokenizer, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    found = client.embeddings.create(model=CONTINUES, input=list(TEXTS))  # the client asks for base64
    raw = client.embeddings.create(
        model=CONTINUES, input=list(TEXTS), encoding_format="float", extra_body={"normalize": False}
    )

    assert [item.index for item in found.data] == [0, 1, 2]
    for text, item, plain in zip(TEXTS, found.data, raw.data, strict=True):
        ids = continuing.tokenizer.encode(text)
        with torch.no_grad():
            states = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        mean = states.mean(0).numpy()
        assert plain.embedding == pytest.approx(mean.tolist(), abs=1e-4)
        assert item.embedding == pytest.approx((mean / np.linalg.norm(mean)).tolist(), abs=1e-5)
    count = sum(len(continuing.tokenizer.encode(text)) for text in TEXTS)
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (count, count)


def test_ids_have_the_vector_of_their_text(client: openai.OpenAI, continuing: Session) -> None:
    of_text = client.embeddings.create(model=CONTINUES, input=TEXTS[0]).data[0].embedding
    of_ids = client.embeddings.create(model=CONTINUES, input=continuing.tokenizer.encode(TEXTS[0])).data[0].embedding
    assert of_ids == of_text
    assert len(client.embeddings.create(model=CONTINUES, input=TEXTS[0], dimensions=32).data[0].embedding) == 32


def test_texts_have_the_same_vectors_alone_and_together(client: openai.OpenAI) -> None:
    texts = [("The ferry left. " * 9)[: 1 + 7 * (number % 19)] for number in range(60)]
    together = client.embeddings.create(model=CONTINUES, input=texts).data
    for text, item in list(zip(texts, together, strict=True))[::7]:
        alone = client.embeddings.create(model=CONTINUES, input=text).data[0].embedding
        assert item.embedding == pytest.approx(alone, abs=1e-5)


def test_what_is_not_possible_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions is 7, and the model's vectors have 32"):
        client.embeddings.create(model=CONTINUES, input="a", dimensions=7)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=CONTINUES, input="x" * 500)
    assert caught.value.code == "context_length_exceeded"
