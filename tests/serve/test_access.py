"""Who may use a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.errors import UsageError
from gptcli.serve.access import KEY_VARIABLE, NO_KEYS, AccessPolicy, ApiKeys, read_keys
from gptcli.serve.openai.errors import ApiError

KEY = "k" * 32


def status(policy: AccessPolicy, path: str = "/v1/models", method: str = "POST", **headers: str) -> int:
    """The status by which a request is refused, or 200."""
    try:
        policy.check(path, method, headers)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:8000", "app.localhost", "LOCALHOST"],
)
def test_names_that_no_other_site_can_have_are_allowed(host: str) -> None:
    assert status(AccessPolicy(NO_KEYS), host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "[", "0x7f"]
)
def test_a_name_that_is_made_to_lead_here_is_refused(host: str) -> None:
    assert status(AccessPolicy(NO_KEYS), host=host) == 403
    assert status(AccessPolicy(ApiKeys([KEY])), host=host, authorization=f"Bearer {KEY}") == 200  # it knows no key


def test_a_name_can_be_allowed() -> None:
    assert status(AccessPolicy(NO_KEYS, hosts=["My.Example"]), host="my.example:443") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example", "http://[", ""])
def test_a_page_of_another_site_may_post_nothing(origin: str) -> None:
    policy = AccessPolicy(NO_KEYS)
    assert status(policy, host="localhost:8000", origin=origin) == 403
    assert status(policy, host="localhost:8000", origin="http://localhost:8000") == 200
    assert status(AccessPolicy(NO_KEYS, origins=["*"]), host="localhost", origin=origin) == 200


@pytest.mark.parametrize(
    "authorization",
    ["", KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \u00e9\U0001f600"],
)
def test_a_wrong_key_is_refused(authorization: str) -> None:
    assert status(AccessPolicy(ApiKeys([KEY])), authorization=authorization) == 401


def test_every_key_is_accepted_and_some_paths_need_none() -> None:
    policy = AccessPolicy(ApiKeys(["a" * 16, KEY]), open_paths=["/health"])
    assert status(policy, authorization=f"bearer {KEY}") == status(policy, authorization=f"Bearer {'a' * 16}") == 200
    assert status(policy, "/health") == 200
    assert status(policy, "/health/") == 401


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the keys\n{KEY}\n\n{'b' * 20}\r\n")
    assert read_keys(file).keys == (KEY.encode(), b"b" * 20)
    assert not read_keys(None)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert read_keys(None).keys == (KEY.encode(),)


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", f"{KEY} {KEY}\n", "\u00fc" * 20 + "\n"])
def test_a_file_without_a_good_key_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(UsageError, match="API key"):
        read_keys(file)
