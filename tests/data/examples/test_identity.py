"""Digests of conversations: what a chat template reads makes a difference, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from gptcli.data.chat import CHATML_SOURCE
from gptcli.data.examples.identity import identity_of


def whole(template: str, **keys: Any) -> bytes:
    messages = [{"role": "user", "content": "Who?", **keys}, {"role": "assistant", "content": "Ada."}]
    return identity_of(messages, None, learns_all=False, template=template).whole


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m['name'] }}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m.get('name', '') }}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m | tojson }}{% endfor %}",
        "{% for m in messages %}{% for key, value in m.items() %}{{ key }}{{ value }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for key in m %}{{ m[key] }}{% endfor %}{% endfor %}",
        "{{ messages | map(attribute='name') | join }}",
        "{% set key = 'name' %}{% for m in messages %}{{ m[ key ] }}{% endfor %}",
    ],
)
def test_a_key_that_a_template_reads_in_any_way_makes_examples_different(template: str) -> None:
    assert whole(template, name="Ben") != whole(template, name="Cleo")


def test_a_key_that_no_template_reads_makes_no_difference() -> None:
    assert whole(CHATML_SOURCE, id=1, time="10:00") == whole(CHATML_SOURCE, id=2)
