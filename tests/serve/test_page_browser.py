"""The page in a real browser, against an API that does what each test says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'gptcli[serve]'")

from serve.browser import chromium, opened, violations
from serve.fake_api import BASE_MODEL, FACTS, MODEL, FakeApi, Plan, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PHONE = {"viewport": {"width": 360, "height": 720}, "has_touch": True, "is_mobile": True}
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp;"
SLOW = Plan([f"word{number} " for number in range(200)], pause=0.05)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    fake = FakeApi()
    with served(fake.app()) as address:
        fake.address = address
        yield fake


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    return server


def ask(page, text: str) -> None:
    page.fill("#chat-input", text)
    page.keyboard.press("Enter")


def answered(page, count: int = 1) -> None:
    page.locator(".assistant .meta:not(:empty)").nth(count - 1).wait_for()


def complete(page, text: str) -> None:
    page.fill("#completion-input", text)
    page.press("#completion-input", "Enter")
    page.locator("#completion-meta:not([hidden])").wait_for()


def test_the_page_says_what_the_model_is(browser, api: FakeApi) -> None:
    with opened(browser, api.address) as page:
        assert page.inner_text("#model-name") == "facts" and page.title() == "facts – gptcli"
        assert page.inner_text("#description") == FACTS["description"]
        facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
        assert facts["Trained on"] == "facts.jsonl (576 examples)" and facts["Bits per byte"] == "0.416"
        assert facts["Context"] == "256 tokens" and facts["Ends at"] == "<|endoftext|>"


def test_a_chat_goes_by_the_keyboard_alone(browser, api: FakeApi) -> None:
    api.reset(Plan(["A ", "fox."]), SLOW, Plan(["An ", "owl."]), Plan(["A ", "toad."]))
    with opened(browser, api.address) as page:
        focused = lambda: page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")  # noqa: E731
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert focused() == "chat-input", "the first stop of Tab skips the head of the page"
        page.keyboard.type("What came")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("at night?")
        page.keyboard.press("Enter")
        answered(page)
        assert page.inner_text(".user .text") == "What came\nat night?"
        assert page.inner_text(".assistant .text") == "A fox." and focused() == "chat-input"
        page.keyboard.type("And then?")
        page.keyboard.press("Enter")
        page.get_by_text("word3").wait_for()
        page.keyboard.press("Escape")
        answered(page, 2)
        assert "stopped by you" in page.locator(".assistant .meta").last.inner_text()
        page.wait_for_timeout(150)
        assert api.dropped == 1, "the server is told that nobody listens"
        page.keyboard.press("ArrowUp")
        assert focused() != "chat-input", "the last message is edited"
        page.keyboard.press("Control+a")
        page.keyboard.type("And what then?")
        page.keyboard.press("Enter")
        answered(page, 2)
        assert page.locator(".assistant .text").last.inner_text() == "An owl."
        page.keyboard.press("Shift+Tab")
        assert focused() == "Again"
        page.keyboard.press("Enter")
        page.get_by_text("A toad.").wait_for()
    turns = [[message["content"] for message in body["messages"]] for body in api.bodies]
    first = ["What came\nat night?", "A fox."]
    assert turns[0] == first[:1] and turns[1] == [*first, "And then?"]
    assert turns[2] == turns[3] == [*first, "And what then?"]
    assert api.bodies[2]["seed"] != api.bodies[3]["seed"], "asking again with the same seed would change nothing"


def test_the_last_message_is_taken_back_and_a_chat_begun_anew(browser, api: FakeApi) -> None:
    with opened(browser, api.address) as page:
        ask(page, "one")
        answered(page)
        ask(page, "two")
        answered(page, 2)
        page.click("#chat-undo")
        assert page.locator(".message").count() == 2 and page.input_value("#chat-input") == "two"
        page.click("#chat-new")
        assert page.locator(".message").count() == 0 and page.is_visible("#chat-empty")
        ask(page, "three")
        answered(page)
    assert [message["content"] for message in api.bodies[-1]["messages"]] == ["three"]


def test_enter_that_ends_the_input_of_a_character_does_not_send(browser, api: FakeApi) -> None:
    with opened(browser, api.address) as page:
        page.fill("#chat-input", "きつね")
        page.evaluate("""() => document.getElementById("chat-input").dispatchEvent(
            new KeyboardEvent("keydown", {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))""")
        assert page.input_value("#chat-input") == "きつね" and api.bodies == []


def test_no_text_and_no_name_becomes_markup(browser, api: FakeApi) -> None:
    api.reset(Plan([MARKUP, " ", MARKUP]), Plan([MARKUP]))
    api.models = [{**MODEL, "id": MARKUP, "gptcli": {**FACTS, "description": MARKUP, "corpus": [MARKUP]}}, BASE_MODEL]
    with opened(browser, api.address) as page:
        ask(page, MARKUP)
        answered(page)
        complete(page, MARKUP)
        page.locator("#written-tokens .token").first.click()
        assert page.inner_text(".user .text") == MARKUP and page.inner_text(".assistant .text") == f"{MARKUP} {MARKUP}"
        assert page.inner_text("#description") == MARKUP and page.inner_text("#written-tokens") == MARKUP
        assert "<b>bold</b>" in page.inner_text("#alternatives-list")
        assert page.locator("img, b, script:not([src])").count() == 0


def test_tokens_are_marked_by_their_probability_and_change_the_text(browser, api: FakeApi) -> None:
    api.reset(Plan([" was", " a", " fox", " at", " night"]), Plan([" and", " a", " mouse"]))
    with opened(browser, api.address) as page:
        complete(page, "There")
        marks = [page.locator("#written-tokens .token").nth(place) for place in range(5)]
        assert [mark.get_attribute("class") for mark in marks] == [f"token p{level}" for level in range(5)]
        assert marks[2].get_attribute("aria-label") == "fox, 30 %"
        styles = [mark.evaluate("e => getComputedStyle(e.lastChild).textDecorationStyle") for mark in marks[1:]]
        assert styles == ["dotted", "dashed", "solid", "double"], "no probability is told by colour alone"
        marks[0].focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        rows = page.locator("#alternatives-list button").all_inner_texts()
        assert [row.split("\n")[0] for row in rows] == ["␣fox", "␣owl", "<b>bold</b>", "\\xe7\\x8b", "<|endoftext|>"]
        assert [row.split("\n")[-1] for row in rows][:2] == ["30 %", "23 %"]
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.locator("#completion-meta:not([hidden])").wait_for()
        assert page.inner_text("#written") == "There was a owl and a mouse"
        ids = api.ids
        assert api.bodies[1]["prompt"] == [ids[b"There"], ids[b" was"], ids[b" a"], ids[b" owl"]]
        page.click("#completion-undo")
        assert page.inner_text("#written") == "There was a fox at night"
        page.locator("#written-tokens .token").nth(3).click()
        page.get_by_role("button", name="<|endoftext|>").click()
        assert page.inner_text("#written") == "There was a fox" and len(api.bodies) == 2
        assert page.locator("#written-tokens .token").last.get_attribute("aria-label") == "<|endoftext|>, 4.1 %"
        page.click("#completion-run")
        page.get_by_text("came.").wait_for()
        assert api.bodies[2]["prompt"] == [ids[b"There"], ids[b" was"], ids[b" a"], ids[b" fox"]], "the end is left out"
        page.locator("#completion-meta:not([hidden])").wait_for()
        page.locator("#written-tokens .token").first.click()
        page.keyboard.press("Escape")
        assert not page.is_visible("#alternatives")
        page.click("#show-probabilities")
        assert page.locator("#written-tokens .token").count() == 0 and not page.is_visible("#legend")


def test_a_text_goes_on_is_drawn_again_and_edited(browser, api: FakeApi) -> None:
    api.reset(Plan([" fox"]), Plan([" ran"]), Plan([" hid"]), Plan([" away"]))
    with opened(browser, api.address) as page:
        complete(page, "A")
        page.keyboard.press("Enter")
        page.get_by_text("ran").wait_for()
        page.click("#completion-again")
        page.get_by_text("hid").wait_for()
        page.click("#completion-edit")
        assert page.input_value("#completion-input") == "A fox hid"
        page.keyboard.type(" not")
        page.keyboard.press("Enter")
        page.get_by_text("away").wait_for()
    ids = api.ids
    prompts = [body["prompt"] for body in api.bodies]
    assert prompts == ["A", [ids[b"A"], ids[b" fox"]], [ids[b"A"], ids[b" fox"]], "A fox hid not"]
    assert api.bodies[1]["seed"] != api.bodies[2]["seed"]


def test_a_character_of_several_tokens_is_one_piece(browser, api: FakeApi) -> None:
    api.reset(Plan([b"\xe7\x8b", b"\x90", "\u3068", "\u200f\u05e9\u05d5\u05e2\u05dc"]), Plan(["!"]))
    with opened(browser, api.address) as page:
        complete(page, "")
        pieces = page.locator("#written-tokens .token").all_inner_texts()
        assert pieces == ["狐", "と", "\u200fשועל"]
        page.locator("#written-tokens .token").nth(1).click()
        page.locator("#alternatives-list button[aria-current]").click()
        page.get_by_text("!").wait_for()
    assert api.bodies[1]["prompt"] == [api.ids[b"\xe7\x8b"], api.ids[b"\x90"], api.ids["と".encode()]]


def test_a_text_that_a_stop_text_cut_goes_on_as_text(browser, api: FakeApi) -> None:
    api.reset(Plan([" fox", " ran.\n"], cut=2), Plan([" far"]))
    with opened(browser, api.address) as page:
        complete(page, "A")
        assert page.inner_text("#written") == "A fox ran"
        page.click("#completion-run")
        page.get_by_text("far").wait_for()
    assert api.bodies[1]["prompt"] == "A fox ran"


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser, api: FakeApi) -> None:
    api.key = "secret"
    with opened(browser, api.address) as page:
        page.fill("#key-input", "wrong")
        page.keyboard.press("Enter")
        page.get_by_text("does not accept this key").wait_for()
        page.fill("#key-input", "secret")
        page.keyboard.press("Enter")
        page.locator(".fact").first.wait_for()
        assert page.evaluate("sessionStorage['gptcli-key']") == "secret"
        assert "secret" not in page.evaluate("Object.values(localStorage).join()")
        ask(page, "one")
        answered(page)
        page.click("#key-forget")
        page.locator("#key-dialog[open]").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("answers only with a key").wait_for()
        assert page.evaluate("sessionStorage['gptcli-key']") is None


def test_errors_are_in_words_and_can_be_tried_again(browser, api: FakeApi) -> None:
    api.reset(
        Plan(status=429, message="the queue is full", retry_after=7),
        Plan(["Half an ", "answer ", "that"], breaks_after=2, pause=0.02),
        Plan(status=400, message="the prompt has 300 tokens, and the model's context is 256 tokens; shorten it"),
    )
    with opened(browser, api.address) as page:
        ask(page, "one")
        notice = page.locator("#chat-notice")
        notice.wait_for()
        assert "The server is busy with other requests. Try again in 7 seconds." in notice.inner_text()
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("The connection to the server was lost. What has come so far is kept.").wait_for()
        assert page.inner_text(".assistant .text") == "Half an answer "
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("The prompt has 300 tokens, and the model's context is 256 tokens; shorten it.").wait_for()
        page.get_by_role("button", name="Try again").click()
        answered(page)
        assert page.locator(".message").count() == 2 and not notice.is_visible()


def test_a_server_that_is_away_is_named_and_asked_again(browser, api: FakeApi) -> None:
    with opened(browser, api.address) as page:
        page.context.set_offline(True)
        complete(page, "A")
        assert "The server cannot be reached." in page.inner_text("#completion-notice")
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("fox").wait_for()


def test_settings_are_sent_kept_and_reset(browser, api: FakeApi) -> None:
    with opened(browser, api.address) as page:
        page.get_by_label("System prompt").fill("Be short.")
        page.get_by_label("Temperature").fill("0.3")
        page.get_by_label("Top-k").fill("20")
        page.get_by_label("Seed").fill("5")
        page.get_by_label("Stop at").fill("\\n\nEND")
        page.get_by_label("Go on when the context is full").check()
        page.reload()
        page.locator(".fact").first.wait_for()
        ask(page, "one")
        answered(page)
        page.click("#settings-reset")
        ask(page, "two")
        answered(page, 2)
    first, second = api.bodies
    assert first["messages"][0] == {"role": "system", "content": "Be short."}
    assert (first["temperature"], first["top_k"], first["seed"]) == (0.3, 20, 5)
    assert first["stop"] == ["\n", "END"] and first["overflow"] == "slide" and first["max_completion_tokens"] == 200
    assert second["temperature"] == 0.8 and not {"top_k", "stop", "overflow"} & second.keys()


def test_several_models_are_offered_and_one_that_does_not_chat_says_so(browser, api: FakeApi) -> None:
    api.models = [MODEL, BASE_MODEL]
    with opened(browser, api.address) as page:
        complete(page, "A")
        page.get_by_label("Model", exact=True).select_option("stories")
        assert not page.is_visible("#chat") and page.title() == "stories – gptcli"
        assert page.input_value("#completion-input") == "AA fox came." and page.is_disabled("#completion-undo")
        page.click("#completion-run")
        page.locator("#completion-meta:not([hidden])").wait_for()
    assert [(body["model"], body["prompt"]) for body in api.bodies] == [("facts", "A"), ("stories", "AA fox came.")]


def test_a_model_that_still_loads_is_waited_for(browser, api: FakeApi) -> None:
    api.models = []
    with opened(browser, api.address) as page:
        assert "No model is loaded yet" in page.inner_text("#description")
        api.models = [BASE_MODEL]
        page.get_by_role("heading", name="stories").wait_for()


@pytest.mark.parametrize(("theme", "size"), [("light", "desktop"), ("dark", "phone")])
def test_axe_finds_nothing(browser, api: FakeApi, theme: str, size: str) -> None:
    api.reset(Plan([MARKUP]), Plan(status=429), Plan([" was", " a", " fox", " at", " night"]))
    with opened(browser, api.address, color_scheme=theme, **(PHONE if size == "phone" else {})) as page:
        assert violations(page) == []
        ask(page, "one")
        answered(page)
        ask(page, "two")
        page.locator("#chat-notice").wait_for()
        if size == "phone":
            assert violations(page) == []
            page.click("#tab-completion")
        complete(page, "There")
        assert violations(page) == []
        page.locator("#written-tokens .token").nth(2).click()
        if size == "phone":
            page.keyboard.press("Escape")
            page.click("#settings-button")
        assert violations(page) == []


def test_a_phone_shows_one_pane_at_a_time_and_nothing_beyond_its_edge(browser, api: FakeApi) -> None:
    api.reset(Plan(["L" + "o" * 300 + "ng ", "مرحبا بالعالم ", "狐" * 200]))
    api.models = [{**MODEL, "id": "a-model-with-a-name-" + "that-is-long-" * 8}]
    with opened(browser, api.address, **PHONE) as page:
        ask(page, "x" * 400)
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.is_visible("#chat") and not page.is_visible("#completion")
        page.get_by_role("tab", name="Chat").focus()
        page.keyboard.press("ArrowRight")
        assert page.is_visible("#completion") and not page.is_visible("#chat")
        complete(page, "There")
        page.locator("#written-tokens .token").last.click()
        box = page.locator("#alternatives").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 360
        page.keyboard.press("Escape")
        page.click("#settings-button")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.keyboard.press("Escape")
        assert not page.is_visible("#settings")


def test_text_from_right_to_left_has_its_direction(browser, api: FakeApi) -> None:
    api.reset(Plan(["مرحبا ", "بالعالم"]))
    with opened(browser, api.address) as page:
        ask(page, "שלום")
        answered(page)
        sides = page.locator(".text").evaluate_all("all => all.map(one => getComputedStyle(one).direction)")
        assert sides == ["rtl", "rtl"]


def test_a_long_answer_stays_in_view_until_the_reader_scrolls_up(browser, api: FakeApi) -> None:
    api.reset(Plan([f"line {number}\n" for number in range(100)]), Plan([f"word {n}\n" for n in range(40)], pause=0.01))
    with opened(browser, api.address) as page:
        from_end = "b => b.scrollHeight - b.scrollTop - b.clientHeight"
        box = page.locator("#chat-scroll")
        ask(page, "one")
        answered(page)
        assert box.evaluate(from_end) < 3
        ask(page, "two")
        page.get_by_text("word 5\n").wait_for()
        box.evaluate("b => { b.scrollTop = 0; }")
        answered(page, 2)
        assert box.evaluate("b => b.scrollTop") == 0


def test_a_theme_is_chosen_and_kept(browser, api: FakeApi) -> None:
    with opened(browser, api.address, color_scheme="light") as page:
        ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
        light = ground()
        page.get_by_role("button", name=re.compile("Theme")).click()
        page.get_by_role("button", name="Theme: light").click()
        page.get_by_role("button", name="Theme: dark").wait_for()
        dark = ground()
        page.reload()
        assert dark != light and ground() == dark


def test_an_answer_is_copied(browser, api: FakeApi) -> None:
    api.reset(Plan(["A ", "fox."]))
    with opened(browser, api.address, permissions=["clipboard-read", "clipboard-write"]) as page:
        ask(page, "one")
        answered(page)
        page.locator(".assistant").get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "A fox."
