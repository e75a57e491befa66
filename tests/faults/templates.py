"""Chat templates of others: attacks, mistakes, what takes for ever or too much, and mutations of valid ones.

Each is given to a command that reads conversations. It makes a text or is refused in a line that says why, and runs
nothing.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults.nursery import Nursery
from faults.sizes import CODES, Case, Sizes, show_all
from gptcli.data.chat import CHATML_SOURCE

RUNNING = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY') }}",
    "{{ lipsum.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('touch CANARY') }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ messages[0].__class__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0] }}",
    "{{ messages | attr('__class__') }}",
    "{{ ('%c' % 95) * 2 }}{{ messages | attr('__cl' ~ 'ass__') | attr('__base__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ '{0.__class__}'.format_map({'0': messages}) }}",
    "{% set x = ''.format %}{{ x('{0.__class__}', 1) }}",
    "{{ messages.append(1) }}",
    "{{ messages.__setitem__(0, 1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "{% from 'os' import system %}",
    "{% set namespace = 1 %}{{ namespace.__class__ }}",
    "{{ url_for.__globals__ }}{{ config.items() }}{{ request.application }}",
    "{{ strftime_now.__self__.__class__ }}",
    "{% set ns = namespace(__init__=1) %}{{ ns.__init__ }}",
    "{{ dict.__subclasses__() }}{{ range.__doc__.__class__ }}",
    "{{ (namespace | string).__class__.__mro__ }}",
)
MISTAKEN = (
    "",
    "{% for %}",
    "{{",
    "{%",
    "}}",
    "{{ }}",
    "{% endfor %}",
    "{% if %}",
    "{% break %}",
    "{% continue %}",
    "{% for m in messages %}{% endfor",
    "{{ messages[0].nothing.more }}",
    "{{ undefined_function() }}",
    "{{ messages | nofilter }}",
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ messages[99].content }}",
    "{{ none.x }}",
    "{{ strftime_now('%Y') }}",
    "{{ strftime_now() }}",
    "{{ messages[0].content.strip }}",
    "{{ messages | map('upper') }}",
    "{{ raise_exception('\x1b[2J\x07 no ‮gnihton') }}",
    "{{ raise_exception() }}",
    "\x00\x1b[31m{{ 1 }}\x9b",
    "{% generation %}x{% endgeneration %}",
    "{% generation %}x",
    "{{ '\\ud800' }}",
    "{{ messages[0].content * -1 }}",
    "{{ '%d' % 'x' }}",
    "{{ '%s %s' % 1 }}",
    "{% set a, b = 1 %}",
    "{{ [1, 2, 3] | batch(0) | list }}",
    "{{ messages | groupby('x') }}",
    "{{ messages | sort }}",
    "{{ '{' | format }}",
    "{% macro f() %}{{ f( }}{% endmacro %}",
    "{% raw %}{{",
    "{# never closed",
    "{{ namespace().x }}{{ cycler }}{{ cycler('a') }}",
    "{{ caller() }}",
    "{{ super() }}",
    "{% block a %}{% block a %}{% endblock %}{% endblock %}",
    "{% autoescape false %}x{% endautoescape %}",
)
GROWING = (
    "{{ 'x' * 10**10 }}",
    "{{ messages[0].content * 10**9 }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10 ** 5000 }}",
    "{{ (10 ** 4200) | string * 10000 }}",
    "{{ range(99999) | list | string * 9999 }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{{ 'x' * 90000 }}{% endfor %}{% endfor %}",
    "{{ lipsum(100000) }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ 'x' | indent(10**10) }}",
    "{{ 'a,' * 10**8 | replace('a', 'b' * 100) }}",
    "{{ ' ' * 10**8 | urlize }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{{ messages | batch(10**9, 'x') | list }}",
    "{{ messages | slice(10**9) | list }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "(" * 50_000,
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{{ " + "+".join("1" * 20_000) + " }}",
    "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "{% for i in messages %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "not " * 20_000 + "1 }}",
    "{% set a = 1 %}" * 6000,
    "{{ 1 if " * 3000 + "1" + " }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "x" * 200_000,
    "{{ '" + "x" * 90_000 + "' * 9999 }}",
)
ENDLESS = (
    "{{ 7 ** (10 ** 8) }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x=3) %}{% for i in range(100) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{{ ((10 ** 4000) ** 4000) % 7 }}",
    "{{ [[1] * 10**6] * 10**6 }}",
    "{% for a in range(90000) %}{{ (range(99999) | list | sort | first) and '' }}{% endfor %}",
)
VALID = (
    CHATML_SOURCE,
    "{%- if messages[0].role == 'system' %}\n[S]{{ messages[0].content }}\n{%- endif %}\n{% for m in messages %}"
    "{% if m.role == 'user' %}[U]{{ m.content | trim }}{% else %}[A]{{ m['content'] }}{{ '</s>' }}{% endif %}"
    "{% endfor %}",
    "{% if not date is defined %}{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date = '26 Jul 2024' %}{% endif %}{% endif %}{{ date }}{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "{% macro say(m) %}{{ m.role | upper }}: {{ m.content | replace('\\n', ' ') }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}\n{% endfor %}{{ messages | tojson(indent=2) }}",
)
TOKENS = (
    "{{",
    "}}",
    "{%",
    "%}",
    "(",
    ")",
    "[",
    "]",
    "|",
    ".",
    "'",
    "for",
    "in",
    "if",
    "else",
    "endif",
    "endfor",
    "set",
    "messages",
    "range(99999)",
    "**",
    "*",
    "10**9",
    "~",
    "__class__",
    "namespace()",
    "loop",
    "\x1b[31m",
    "\x00",
)


def mutated(source: str, drawn: random.Random) -> str:
    """A template with one to three parts removed, repeated, or put in from elsewhere."""
    for _ in range(drawn.randint(1, 3)):
        start = drawn.randrange(len(source) or 1)
        end = min(len(source), start + drawn.randint(0, 12))
        put = drawn.choice(("", source[start:end] * drawn.choice((2, 3, 200)), f" {drawn.choice(TOKENS)} "))
        source = source[:start] + put + source[end:]
    return source


def templates(trials: int, seed: int) -> Iterator[tuple[str, str, frozenset[int]]]:
    """(name, template, exit codes that it may end with)."""
    for number, source in enumerate(VALID):
        yield f"valid {number}", source, frozenset({0})
    named = [*RUNNING, *MISTAKEN, *GROWING, *ENDLESS]
    drawn = random.Random(seed)
    drawn.shuffle(named)
    for number, source in enumerate(named[: max(8, trials)]):
        yield f"named {number}: {source[:60]!r}", source, CODES
    for number in range(trials - len(named)):
        source = mutated(drawn.choice(VALID), random.Random(f"{seed}/{number}"))
        yield f"mutated {number}: {source[:60]!r}", source, CODES


def template_campaign(nursery: Nursery, folder: Path, trials: int, seed: int = 0) -> Sizes:
    """Give so many templates to a command each; what one of them runs makes a file, which is counted a failure."""
    counts, canary, place = Sizes(), folder / "canary", folder / "templates"
    corpus = folder / "chats.jsonl"
    talks = [
        [{"role": "user", "content": f"How many?\n{n}"}, {"role": "assistant", "content": "Seven."}] for n in range(30)
    ]
    corpus.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    idle = nursery.run(["--version"], folder).peak_bytes
    waiting = list(templates(trials, seed))
    counts.trials["templates"] = len(waiting)
    for first in range(0, len(waiting), 20):
        place.mkdir()
        cases = []
        for number, (name, source, codes) in enumerate(waiting[first : first + 20], first):
            template = place / f"{number}.jinja"
            template.write_bytes(source.replace("CANARY", str(canary)).encode(errors="replace"))
            reads = (
                ["train", corpus, "--dry-run", "--out", place / "out"] if number % 3 else ["data", "prepare", corpus]
            )
            cases.append(Case(name, [*reads, "--set", f"data.chat_template={template}", "--set=data.deduplicate=none"],
                              codes))  # fmt: skip
        show_all(nursery, folder, cases, idle, counts)
        shutil.rmtree(place)
        if canary.exists():
            counts.failures.append(f"one of the templates {first} to {first + 19} ran something")
            canary.unlink()
    return counts
