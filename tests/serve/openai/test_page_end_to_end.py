"""The page on real models: what it shows is what the API answers, and another token is gone on from by its id."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("openai", reason="needs openai: pip install 'gptcli[test]'")

from gptcli.session import Session
from serve.browser import chromium, opened

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as browser:
        yield browser


def set_up(page, model: str) -> None:
    """Choose a model, and settings by which its answers are known."""
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Most tokens").fill("24")
    page.get_by_label("Seed").fill("7")


def test_a_chat_shows_the_answers_of_the_api(browser, address: str, ask: Callable) -> None:
    options = {"temperature": 1, "max_tokens": 24}
    with opened(browser, f"{address}/") as page:
        set_up(page, "answers")
        messages = []
        for turn, question in enumerate(("Who left?", "And «then»? 狐")):
            page.fill("#chat-input", question)
            page.keyboard.press("Enter")
            page.locator(".assistant .meta:not(:empty)").nth(turn).wait_for()
            messages.append({"role": "user", "content": question})
            answer = ask(messages, seed=7, **options).choices[0].message.content
            assert page.locator(".assistant .text").nth(turn).evaluate("e => e.textContent") == answer
            messages.append({"role": "assistant", "content": answer})
        page.get_by_role("button", name="Again").click()
        page.locator(".assistant .meta:not(:empty)").nth(1).wait_for()
        again = ask(messages[:3], seed=8, **options).choices[0].message.content
        assert page.locator(".assistant .text").nth(1).evaluate("e => e.textContent") == again


def test_a_completion_goes_on_from_the_ids_of_another_token(
    browser, address: str, complete: Callable, continuing: Session
) -> None:
    tokenizer = continuing.tokenizer
    with opened(browser, f"{address}/") as page:
        set_up(page, "continues")
        sent = []
        page.on(
            "request", lambda request: sent.append(request.post_data_json) if "completions" in request.url else None
        )
        page.fill("#completion-input", "The ferry")
        page.press("#completion-input", "Enter")
        page.locator("#completion-meta:not([hidden])").wait_for()
        shown = page.locator("#written-tokens").evaluate("e => e.textContent")
        assert shown == complete(temperature=1, max_tokens=24, seed=7).choices[0].text
        pieces = page.locator("#written-tokens .token").evaluate_all("all => all.map(one => one.textContent)")
        page.locator("#written-tokens .token").nth(4).click()
        row = page.locator("#alternatives-list button:not([aria-current])").nth(1)
        percent = row.locator(".share").inner_text()
        row.click()
        page.locator("#completion-meta:not([hidden])").wait_for()
        ids = sent[1]["prompt"]
        assert tokenizer.decode(ids[:-1]) == "The ferry" + "".join(pieces[:4])
        (entry,) = complete(ids[:-1], temperature=1, max_tokens=1, seed=7, logprobs=20).choices[0].logprobs.top_logprobs
        assert percent in {f"{share:.{int(share < 10)}f} %" for share in map(as_percent, entry.values())}
        added = page.locator("#written-tokens").evaluate("e => e.textContent")
        rest = complete(ids, temperature=1, max_tokens=24, seed=7).choices[0].text
        assert "The ferry" + added == tokenizer.decode(ids) + rest


def as_percent(logprob: float) -> float:
    return 100 * math.exp(logprob)
