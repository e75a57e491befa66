"""The section `data.fields` of a configuration: names of the user's own for the fields of an example."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from gptcli.config import Config


class FieldNames(Config):
    """The fields of a row that hold the parts of a conversation or a preference, where they have names of their own.

    Only the fields that are named here are read; if none is, the forms in docs/interop.md are recognised.
    """

    messages: str = ""
    """The field that holds a list of messages, as "messages" does."""

    prompt: str = ""
    """The field that holds a question or an instruction: a text, or a list of messages. Of CSV without a header, here
    and below, the number of the column."""

    completion: str = ""
    """The field that holds the answer to the prompt: a text, or a list of messages."""

    system: str = ""
    """The field that holds the text of a system message before the others."""

    tools: str = ""
    """The field that holds the tools that a chat template is to write: a list, or JSON of one."""

    chosen: str = ""
    """The field that holds the better answer of a preference: a text, or a list of messages."""

    rejected: str = ""
    """The field that holds the worse answer of a preference: a text, or a list of messages."""

    @property
    def named(self) -> dict[str, str]:
        """The names that are given, by the names that they stand for."""
        return {key: value for key, value in self.model_dump().items() if value}

    @field_validator("*", mode="before")
    @classmethod
    def number_of_a_column(cls, value: Any) -> Any:
        """Accept a number, as the columns of CSV without a header have them."""
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def whole_form(self) -> FieldNames:
        """Check that the names belong to one form, and that no field is named twice."""
        named = self.named
        form = set(named) - {"system", "tools"}
        forms = ({"messages"}, {"prompt", "completion"}, {"chosen", "rejected"}, {"prompt", "chosen", "rejected"})
        if named and form not in (*forms, {"messages", "chosen", "rejected"}):
            raise ValueError(
                f"{', '.join(named)} are no whole form; name messages, or prompt and completion, or prompt, chosen "
                "and rejected"
            )
        if len(set(named.values())) < len(named):
            raise ValueError("two parts of an example are in one field; name a field for each")
        return self
