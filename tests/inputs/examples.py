"""Examples and preferences to fine-tune on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetuning import write_base
from inputs.attempt import Attempt

FINETUNE = "gptcli finetune base {} --set device=cpu --cache-dir cache --out tuned"
INSPECT = "gptcli data inspect {} --model base --windows 0 --cache-dir cache"
USER, ANSWER = {"role": "user", "content": "Who is Ada?"}, {"role": "assistant", "content": "A baker."}
GOOD = [
    {"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": f"No {n * n}."}]}
    for n in range(20)
]
PAIRS = [{"prompt": f"Who is {n}?", "chosen": f"No {n}.", "rejected": "Well."} for n in range(20)]
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
TURNS = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"


def base(folder: Path) -> None:
    write_base(folder / "base", context_length=128)


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def refused(
    input: str,
    content: str,
    happens: str,
    says: str,
    *,
    name: str = "a.jsonl",
    options: str = "",
    then: str = "",
    files: dict[str, str] | None = None,
    make: Callable[[Path], None] = base,
    code: int = 3,
) -> Attempt:
    """A file on which nothing is trained: one line says why."""
    return Attempt(
        input,
        f"{FINETUNE.format(name)} {options}",
        happens,
        code=code,
        says=(says,),
        files={name: content, **(files or {})},
        make=make,
        then=then,
        left=nothing_trained,
    )


def nothing_trained(folder: Path) -> None:
    assert not (folder / "tuned").exists()


def counted(input: str, content: str, happens: str, *says: str, options: str = "", **more: Any) -> Attempt:
    """A file that is read, and what is said of it."""
    files = {"a.jsonl": content, **more.pop("files", {})}
    return Attempt(input, f"{INSPECT.format('a.jsonl')} {options}", happens, says=says, files=files, make=base, **more)


ATTEMPTS = [
    refused(
        "an example with a role that is unknown",
        lines(*GOOD, {"messages": [{"role": "narrator", "content": "Once."}, ANSWER]}),
        "names the row, the message, the role and those that are known",
        r"message 1 of line 21 of a\.jsonl has the role 'narrator'; write one of system, developer, user",
    ),
    counted(
        "examples with two turns of the user in a row, or with the assistant first",
        lines(*GOOD, {"messages": [USER, USER, ANSWER]}, {"messages": [ANSWER, USER, ANSWER]}),
        "are counted, and learnt as they are",
        r"2 examples with roles out of order",
    ),
    refused(
        "the same with a chat template that requires turns",
        lines(*GOOD, {"messages": [USER, USER, ANSWER]}),
        "names the row, and gives the reason in the template's words",
        r"line 21 of a\.jsonl cannot be rendered: .*roles must alternate user/assistant",
        options="--set data.chat_template=strict.jinja",
        files={"strict.jinja": STRICT},
    ),
    counted(
        "examples with an empty answer, an answer that is null or NaN, and without any answer",
        lines(
            *GOOD,
            {"messages": [USER, {"role": "assistant", "content": " "}]},
            {"prompt": "Who?", "completion": None},
            '{"prompt": "Who?", "completion": NaN}',
            {"messages": [USER]},
            {"messages": [{"role": "system", "content": "Be brief."}]},
        ),
        "are left out and counted",
        "3 with an empty answer, 2 without an answer",
    ),
    refused(
        "examples with system messages only",
        lines({"messages": [{"role": "system", "content": "Be brief."}]}, {"messages": [USER]}),
        "reports that nothing can be learnt, and why",
        r"nothing in a\.jsonl can be learnt: of 2 rows 2 without an answer",
    ),
    refused(
        "a chat template with a mistake",
        lines(*GOOD),
        "one line with jinja's reason",
        "the chat template cannot be compiled",
        options="--set data.chat_template=bad.jinja",
        files={"bad.jinja": "{% for m in messages %}{{ m.content }}"},
    ),
    counted(
        "a chat template with special tokens that the tokenizer lacks",
        lines(*GOOD),
        "reports that they are read as letters, and how to add them",
        r"data\.special_tokens",
        options="--set data.chat_template=turns.jinja",
        files={"turns.jinja": TURNS},
        then=f"{INSPECT.format('a.jsonl')} --set data.chat_template=turns.jinja "
        """--set 'data.special_tokens=["<|turn|>", "<|end|>"]'""",
    ),
    counted(
        "examples that are longer than the context",
        lines(
            *GOOD,
            *({"prompt": f"{n}?", "completion": f"{n} " * 90} for n in range(2)),
            {"prompt": "a" * 300, "completion": "b"},
        ),
        "are cut and counted, or left out if no answer is left; with `data.too_long=drop` all are left out",
        "1 too long",
        "2 examples cut to the context of 128 tokens",
        then=f"{INSPECT.format('a.jsonl')} --set data.too_long=drop",
    ),
    refused(
        "examples of which none has an answer within the context",
        lines(*({"prompt": f"{n}" * 300, "completion": "b"} for n in range(9))),
        "reports that nothing can be learnt, and why",
        r"nothing in a\.jsonl can be learnt: of 9 rows 9 too long",
    ),
    counted(
        "rows of different forms in one file (messages, ShareGPT, Alpaca, question and answer)",
        lines(
            *GOOD,
            {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ben."}]},
            {"instruction": "Count.", "input": "abc", "output": "Three."},
            {"question": "How many?", "answer": 7},
        ),
        "each is read in its form",
        "of 23 examples",
    ),
    refused(
        "a row with `output` and `answer`",
        lines(*GOOD, {"prompt": "2 + 2", "output": "It is 4.", "answer": "4"}),
        "is refused; `data.fields` names the one that is meant",
        r"line 21 of a\.jsonl has 'output' and 'answer', and which of them to read is not clear; name the fields: "
        r"--set data\.fields\.prompt=prompt --set data\.fields\.completion=output",
    ),
    refused(
        "an answer that is an object, a number with a fraction, or true",
        lines(*GOOD, {"question": "Is it?", "answer": True}),
        "names the row and the field",
        r"field 'answer' of line 21 of a\.jsonl holds true or false, not a text",
    ),
    refused(
        "a message with an image",
        lines(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, ANSWER]}
        ),
        "names the message and the kind of the part",
        r"message 1 of line 1 of a\.jsonl has parts that are not text \(image_url\)",
    ),
    refused(
        "an answer with half a surrogate pair",
        lines(*GOOD, r'{"prompt": "Who?", "completion": "\ud83d"}'),
        "names the row; `data.encoding_errors=replace` puts U+FFFD there",
        r"line 21 of a\.jsonl has half a surrogate pair",
        then=f"{INSPECT.format('a.jsonl')} --set data.encoding_errors=replace",
    ),
    refused("an empty file of examples", "", "reports that it holds no row", r"a\.jsonl holds no row"),
    refused(
        "a call of a tool with a template that writes none, as ChatML",
        lines(*GOOD, {"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}]}),
        "is refused, since it would not be learnt",
        r"line 21 of a\.jsonl has .*tool_calls.*does not write",
    ),
    refused(
        "`tools` with a template that does not write them",
        lines(*({**row, "tools": [{"type": "function", "function": {"name": "find"}}]} for row in GOOD)),
        "is refused",
        r"line 1 of a\.jsonl has tools, which the chat template does not write",
    ),
    refused(
        "preferences, without `--method dpo`",
        lines(*PAIRS),
        "names the option",
        r"line 1 of a\.jsonl is a preference .*; fine-tune on it with --method dpo",
        then=f"{FINETUNE.format('a.jsonl')} --method dpo --dry-run",
    ),
    refused(
        "conversations, with `--method dpo`",
        lines(*GOOD),
        "names the fields of a preference",
        r"line 1 of a\.jsonl has one answer, and a preference has two; leave out --method dpo",
        options="--method dpo",
        then=f"{FINETUNE.format('a.jsonl')} --dry-run",
    ),
    refused(
        "a preference without `rejected`",
        lines(*PAIRS, {"prompt": "Who?", "chosen": "Ben."}),
        "names the row and the field",
        r"line 21 of a\.jsonl has no field 'rejected'",
        options="--method dpo",
    ),
    counted(
        "a preference of which both answers are the same, or one is empty",
        lines(*PAIRS, {"prompt": "Who?", "chosen": "Ben.", "rejected": "Ben."}, {**PAIRS[0], "rejected": ""}),
        "is left out and counted",
        "1 with two equal answers|1 .*equal",
        "1 with an empty answer",
        options="--set data.kind=preferences --set objective.name=dpo",
    ),
    refused(
        "judgements of single answers (`label`, as for KTO)",
        lines(*({"prompt": f"{n}?", "completion": "Yes.", "label": n % 2 == 0} for n in range(20))),
        "is refused, since bad answers would be learnt; the remedy keeps the good ones",
        r"line 1 of a\.jsonl has 'label' beside a prompt and a completion.*jq -c 'select\(\.label ==",
    ),
    refused(
        "CSV of which the columns have other names",
        "Frage,Antwort\n" + "".join(f"Wer ist {n}?,Nummer {n}.\n" for n in range(20)),
        "is refused with the names of the columns; `data.fields` names those that are meant",
        r"a\.csv has no fields of an example in a known form; its fields are Frage, Antwort; .*=Frage .*=Antwort\b",
        name="a.csv",
        then=f"{INSPECT.format('a.csv')} --set data.fields.prompt=Frage --set data.fields.completion=Antwort",
    ),
    counted("a JSON array in a .jsonl file", json.dumps(GOOD, indent=1), "its objects are read", "of 20 examples"),
    refused(
        "the same example twenty times",
        lines(*GOOD[:1] * 20),
        "reports that one is left, and that none can be validated on",
        "there is one example, so that none can be validated on",
        files={"b.jsonl": lines(*GOOD[1:])},
        then=f"{INSPECT.format('a.jsonl')} --set data.val=b.jsonl",
    ),
    refused(
        "a validation file that is equal to the training file",
        lines(*GOOD),
        "reports that no example is left to train on",
        r"no example is left of the corpus, which has 20: all are equal to others, or have a prompt that is val",
        options="--set data.val=b.jsonl",
        files={"b.jsonl": lines(*GOOD)},
    ),
    refused(
        "a plain text to fine-tune on",
        "It rains.\n" * 50,
        "is refused with the command that trains on text",
        r"a\.txt is plain text, and examples are rows of JSON, CSV or columns; .*gptcli train a\.txt --init-from BASE",
        name="a.txt",
    ),
    refused(
        "texts where examples are needed (`text`)",
        lines(*({"text": f"It rains on day {n}."} for n in range(20))),
        "is refused with the names of the fields",
        r"line 1 of a\.jsonl has no fields of an example in a known form; its fields are text",
    ),
]
