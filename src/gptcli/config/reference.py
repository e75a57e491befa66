"""Configs described for people: annotated TOML (`gptcli config show`) and the tables of docs/config.md."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import tomli_w
from pydantic.fields import FieldInfo

from gptcli.config.base import Config, union_members


def annotated_toml(config: Config, prefix: str = "") -> str:
    """Return the resolved config as TOML, every key under a comment with its meaning."""
    lines: list[str] = []
    sections: list[str] = []
    for name, information in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            heading = f"{prefix}{name}"
            sections.append(f"\n# {first_line(type(value))}\n[{heading}]\n{annotated_toml(value, f'{heading}.')}")
            continue
        if isinstance(value, tuple) and value and isinstance(value[0], Config):
            heading = f"{prefix}{name}"
            tables = (f"[[{heading}]]\n{annotated_toml(one, f'{heading}.')}" for one in value)
            sections.append(f"\n# {one_line(information.description or '')}\n" + "\n".join(tables))
            continue
        if information.description:
            lines.append(f"# {one_line(information.description)}")
        dumped = config.model_dump(mode="json")[name]
        lines.append(f"# {name} =    (not set)" if dumped is None else tomli_w.dumps({name: dumped}).rstrip())
    return "\n".join(lines) + "\n" + "".join(sections)


def markdown_tables(kind: type[Config], prefix: str = "") -> Iterator[str]:
    """Yield a Markdown section for `kind` and each config inside it: key, type, default, meaning."""
    rows: list[str] = []
    inner: list[tuple[type[Config], str, bool]] = []
    for name, information in kind.model_fields.items():
        members = [m for m in union_members(information.annotation) if isinstance(m, type) and issubclass(m, Config)]
        if members:
            inner.extend((member, f"{prefix}{name}.", len(members) > 1) for member in members)
        else:
            rows.append(
                f"| `{prefix}{name}` | {type_name(information)} | {default_text(information)} "
                f"| {in_table(one_line(information.description or ''))} |"
            )
            inner.extend((table, f"{prefix}{name}.", False) for table in tables_in(information.annotation))
    if rows:
        yield "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    for member, path, is_choice in inner:
        title = path.rstrip(".")
        if is_choice:
            title += f', name = "{member.model_fields["name"].default}"'
        yield f"## {title}\n\n{first_line(member)}\n"
        yield from markdown_tables(member, path)


def tables_in(annotation: Any) -> list[type[Config]]:
    """Return the config class of an array of tables; empty for other annotations."""
    arguments = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
    return [kind for kind in arguments if isinstance(kind, type) and issubclass(kind, Config)]


def type_name(information: FieldInfo) -> str:
    """Return the type in words: `integer`, `"fp32" or "bf16"`, `array of integer`."""
    return " or ".join(dict.fromkeys(name_of(member) for member in union_members(information.annotation)))


def name_of(annotation: Any) -> str:
    """Return the name of a type for people."""
    if typing.get_origin(annotation) is typing.Annotated:
        return name_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(
            f'"{value}"' if isinstance(value, str) else str(value) for value in typing.get_args(annotation)
        )
    if tables_in(annotation):
        return "array of tables"
    if typing.get_origin(annotation) is tuple:
        return f"array of {name_of(typing.get_args(annotation)[0])}"
    simple = {int: "integer", float: "number", str: "string", bool: "true or false", type(None): "not set"}
    return simple.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(information: FieldInfo) -> str:
    """Return the default of a key for people."""
    if information.is_required():
        return "(required)"
    value = information.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    dumped = list(value) if isinstance(value, tuple) else value
    return f"`{tomli_w.dumps({'x': dumped}).removeprefix('x = ').strip()}`"


def first_line(kind: type[Config]) -> str:
    """Return the summary of a configuration class."""
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def one_line(text: str) -> str:
    """Return the text on one line."""
    return " ".join(text.split())


def in_table(text: str) -> str:
    """Return the text with escaped bars, at which Markdown would end the cell."""
    return text.replace("|", "\\|")
