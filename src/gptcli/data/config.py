"""The `data` section of a configuration: the way from a corpus to documents, a split and tokens."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from gptcli.config import Config
from gptcli.data.encodings import text_encoding
from gptcli.data.field_names import FieldNames
from gptcli.data.file_formats import Format
from gptcli.tokenizer.config import BpeTokenizerConfig, TokenizerConfig

Pack = Literal["cross", "document", "example"]
"""The reach of attention in a sequence, as `data.pack`."""
Content = Literal["text", "examples", "preferences"]
"""The content of a row, as `data.kind`: a text, an example to learn from, or a preference between two answers."""
LossOn = Literal["assistant", "completion", "all"]
"""The tokens of an example that are in the loss, as `data.loss_on`."""
READING_KEYS = (
    "format",
    "text_field",
    "fields",
    "csv_delimiter",
    "csv_quote",
    "csv_escape",
    "csv_header",
    "chat_template",
    "chat_date",
    "document_separator",
    "encoding",
    "encoding_errors",
    "include",
    "exclude",
)
"""The keys of `data` about reading files, which every command that reads texts obeys."""


class MixedCorpus(Config):
    """One corpus of a mix."""

    corpus: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(min_length=1)
    """The sources of the corpus, as data.corpus."""

    weight: float = Field(gt=0)
    """The share of the sequences, in proportion to the other weights."""

    name: str = ""
    """The name in metrics and reports; empty: the name of its first file or directory."""

    @field_validator("corpus", mode="before")
    @classmethod
    def one_or_several(cls, value: Any) -> Any:
        """Accept a single source without brackets."""
        return (value,) if isinstance(value, str) else value

    @property
    def title(self) -> str:
        """The name in metrics and reports."""
        return self.name or Path(self.corpus[0]).name.split(".")[0] or self.corpus[0]


class DataConfig(Config):
    """The corpus and its reading, splitting, tokenizing and cutting into sequences."""

    FREE_TEXTS = frozenset(("csv_delimiter", "csv_quote", "csv_escape", "document_separator"))

    corpus: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """The corpus to train on: files, directories, globs, - (stdin), hf:NAME[:config][@split], python:stdlib, tokens of
    nanoGPT or llm.c (.bin), DIRECTORY[@split] of the cache of the hub or of `datasets`. CORPUS on the command line
    sets it."""

    mix: tuple[MixedCorpus, ...] = ()
    """Several corpora, trained on by weight, instead of one: tables [[data.mix]] with corpus, weight and, optionally,
    name. Each is split and validated on by itself."""

    tokenizer: TokenizerConfig = BpeTokenizerConfig()
    """The tokenizer: char or bpe (learnt from the training split only), byte, or an existing one by
    file:PATH or hf:NAME."""

    format: Literal["auto"] | Format = "auto"
    """The format of the files of the corpus: auto goes by their endings (.jsonl, .jsonlines, .ndjson, .jl, .json, .csv,
    .tsv, .parquet, .arrow; anything else is plain text); any other value holds for every file and for stdin."""

    text_field: Annotated[str, StringConstraints(min_length=1)] = "text"
    """The field that holds the text in .jsonl, .csv, .parquet and .arrow files and in hf: data sets; it may also hold a
    conversation, a list of {"role", "content"} tables. Rows without a field "text" may be conversations or
    instructions: messages, conversations, instruction/input/output, prompt/completion, prompt/response or
    question/answer."""

    fields: FieldNames = FieldNames()
    """The fields that hold the parts of a conversation, where they have other names."""

    csv_delimiter: str | None = None
    """The delimiter between the values of a CSV row: one character, which a space may follow (", " where spaces after
    the commas are no part of the values), or an empty text where each line is one value. If not set, it is a comma in
    .csv and a tab in .tsv. A first line such as sep=; sets it too."""

    csv_quote: Annotated[str, StringConstraints(max_length=1)] = '"'
    """The quote character around CSV values that hold delimiters or line ends; it is doubled within them. An empty text
    makes quotes characters like any other."""

    csv_escape: Annotated[str, StringConstraints(max_length=1)] = ""
    r"""The escape character of CSV, such as \ in "say \"hi\"": a quote, a delimiter, a line end or an escape character
    after it is taken literally. An empty text: there is no such character."""

    csv_header: bool = True
    """The first row of CSV names the columns; if not, data.text_field is the number of a column, from 1, and need not
    be set if there is only one column."""

    chat_template: Annotated[str, StringConstraints(min_length=1)] = "auto"
    """The template that makes a text of a conversation: chatml, a file with a Jinja template, or model for the one that
    the tokenizer of the base model has. auto is the model's own if it has one, and chatml otherwise and for kind
    text."""

    special_tokens: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Further special tokens that the chat template writes, such as <|user|>: the tokenizer gets those that it lacks.
    Those of chatml need not be named. Kind text has none."""

    chat_date: str | None = None
    """The date, as 2026-11-30, that a chat template gets from strftime_now. Without it that function is not defined,
    and templates that use today's date fall back to a date of their own or are refused, so that a text does not depend
    on the day."""

    document_separator: Annotated[str, StringConstraints(min_length=1)] | None = None
    r"""Text that separates the documents of a text file, such as "<|endoftext|>"; \n, \t, \r and \\ are a line end, a
    tab, a carriage return and a backslash, and a line end also stands for that of Windows. If not set, a text file is
    one document."""

    encoding: str = "utf-8"
    """The encoding of text files, by Python's name: utf-8, utf-16, cp1252, gb18030 or any other."""

    encoding_errors: Literal["strict", "replace"] = "strict"
    """The handling of bytes that cannot be decoded: strict stops and reports where they are, or leaves the file out if
    it is in a folder; replace puts U+FFFD in their place and reports how often."""

    include: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Patterns of the files that are read of a folder, an archive or a glob, whatever their endings; empty: those whose
    endings are of text or rows, and those without an ending. They are patterns of .gitignore, relative to the folder:
    *.txt matches at any depth, /*.txt in the folder itself, drafts/**/*.md below a folder. A hidden file is read where
    a pattern has the dot, as .github/*.md."""

    exclude: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Patterns of files and folders that are left out of a folder, an archive or a glob, as those of include; drafts
    leaves out a folder with all that is in it."""

    deduplicate: Literal["exact", "near", "none"] = "exact"
    """The handling of similar documents: exact drops all but the first of equal ones; near does the same, and keeps
    documents that share about two thirds of their passages on one side of the split (pip install 'gptcli[near]'); none
    keeps equal documents too, on one side of the split."""

    split: Literal["document", "tail"] = "document"
    """The choice of the validation part: document takes whole documents by their hash, tail the last characters of the
    corpus."""

    val_fraction: float | None = Field(None, gt=0, lt=1)
    """The part of the corpus to validate on; none: 10 % of the first 10 MB and 1 % of the rest, 20 MB at most."""

    val: Annotated[str, StringConstraints(min_length=1)] | None = None
    """A separate corpus to validate on (file, directory, glob, hf:NAME); none: a part of the corpus is split off."""

    pack: Pack = "cross"
    """The reach of attention: cross lets it cross the boundaries between documents, document stops it there. example,
    for data.kind=examples and the default there, fits whole examples into sequences, each with attention and positions
    of its own."""

    kind: Content = "text"
    """The content of the corpus: text, to continue; examples, conversations or prompts with completions in rows, of
    which a chat template makes tokens, and data.loss_on says which of them are learnt; or preferences, a chosen and a
    rejected answer in each row, for objective.name=dpo."""

    loss_on: LossOn = "assistant"
    """The tokens of an example that are in the loss: assistant (all the assistant's messages, each with the token that
    ends it), completion (the last one only) or all. Of preferences, only the two answers are."""

    too_long: Literal["cut", "drop"] = "cut"
    """The handling of an example that is longer than the context: cut keeps its beginning, if that holds anything to
    learn, and drop leaves it out. Either is counted. Preferences are left out, unless a sequence holds both answers."""

    @model_validator(mode="before")
    @classmethod
    def pack_of_kind(cls, values: Any) -> Any:
        """Return the values with the only way of packing that examples have, unless another one is named."""
        if isinstance(values, dict) and values.get("kind", "text") != "text":
            return {"pack": "example", **values}
        return values

    @property
    def names_and_weights(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The titles of the corpora of the mix, and their weights."""
        return tuple(entry.title for entry in self.mix), tuple(entry.weight for entry in self.mix)

    @field_validator("special_tokens", mode="before")
    @classmethod
    def separate_tokens(cls, value: Any) -> Any:
        """Accept tokens in one text, with commas between them."""
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def patterns(cls, value: Any) -> Any:
        """Accept a single pattern without brackets; each must be one of .gitignore."""
        return checked_patterns((value,) if isinstance(value, str) else value)

    @field_validator("encoding")
    @classmethod
    def known_encoding(cls, value: str) -> str:
        """Return Python's own name of an encoding."""
        found = text_encoding(value)
        return "utf-8" if found == "utf-8-sig" else found  # a byte order mark is left out in any case

    @field_validator("chat_date", mode="before")
    @classmethod
    def calendar_date(cls, value: Any) -> Any:
        """Accept a date of the calendar, as TOML or as text."""
        if isinstance(value, str):
            value = datetime.date.fromisoformat(value)
        return value.isoformat() if type(value) is datetime.date else value

    @field_validator("text_field", mode="before")
    @classmethod
    def number_of_a_column(cls, value: Any) -> Any:
        """Accept a number as a field, as the columns of CSV without a header have them."""
        return str(value) if type(value) is int else value

    @field_validator("csv_delimiter")
    @classmethod
    def one_character(cls, value: str | None) -> str | None:
        r"""Return a delimiter, which is one character that a space may follow; \t stands for a tab."""
        value = "\t" if value == r"\t" else value
        if value and (len(value.removesuffix(" ") or " ") > 1 or value[0] in "\r\n"):
            raise ValueError(f"{value!r} is no delimiter; give one character, such as ';', or one and a space")
        return value

    @model_validator(mode="after")
    def csv_characters_differ(self) -> DataConfig:
        """Check that delimiter, quote and escape character differ."""
        delimiter = "," if self.csv_delimiter is None else self.csv_delimiter[:1]
        used = [one for one in (delimiter, self.csv_quote, self.csv_escape) if one]
        if len(set(used)) < len(used) or set(used) & set("\r\n"):
            raise ValueError("csv_delimiter, csv_quote and csv_escape are to be three different characters in a line")
        return self

    @model_validator(mode="after")
    def kind_fits(self) -> DataConfig:
        """Check that the keys that only one kind of corpus knows fit the kind."""
        if (self.kind == "text") == (self.pack == "example"):
            wanted = "cross or document" if self.kind == "text" else "example"
            raise ValueError(f"pack is {self.pack} and kind is {self.kind}, whose pack is {wanted}; leave pack out")
        if self.kind == "text" and self.special_tokens:
            raise ValueError("special_tokens is for kinds examples and preferences, and kind is text; leave it out")
        if self.kind == "preferences" and self.loss_on != "assistant":
            raise ValueError(f"loss_on={self.loss_on} is for kind examples, and kind is preferences; leave it out")
        if self.kind != "text" and (self.deduplicate == "near" or self.split == "tail"):
            key = "deduplicate=near" if self.deduplicate == "near" else "split=tail"
            raise ValueError(f"{key} is for kind text, and kind is {self.kind}; leave it out")
        return self

    @model_validator(mode="after")
    def one_or_a_mix(self) -> DataConfig:
        """Check that a mix is given instead of a corpus, and that its corpora have different names."""
        if self.mix and self.corpus:
            raise ValueError("corpus and mix are both given; name the corpus in a table of mix, or leave one out")
        if self.mix and self.val is not None:
            raise ValueError("val is given with a mix, of which each corpus is validated on by itself; leave it out")
        titles = [entry.title for entry in self.mix]
        twice = next((title for title in titles if titles.count(title) > 1), None)
        if twice is not None:
            raise ValueError(f"two corpora of mix are called {twice!r}; give them names")
        return self


def checked_patterns(value: Any) -> Any:
    """Return patterns of .gitignore as they are; raise a ValueError if one is invalid."""
    patterns = [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []
    if patterns:
        from pathspec import GitIgnoreSpec

        for pattern in patterns:
            if pattern.startswith("#"):
                raise ValueError(f"{pattern!r} is a comment in .gitignore and matches nothing; write \\{pattern}")
            GitIgnoreSpec.from_lines([pattern])
    return value


class DataSettings(Config):
    """The part of a run's configuration that preparing a corpus uses."""

    seed: int = Field(1337, ge=0, lt=2**63)
    """The seed that decides which documents are validated on."""

    data: DataConfig = DataConfig()
    """The corpus and its reading, splitting, tokenizing and cutting into sequences."""
