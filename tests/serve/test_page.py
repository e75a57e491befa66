"""The files of the page are whole, load nothing from elsewhere, and are served so that a browser runs nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'gptcli[serve]'")
pytest.importorskip("httpx", reason="needs httpx")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from gptcli.serve.page import PREFIX, page_files, page_paths, page_routes


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=page_routes())) as client:
        yield client


class Page(HTMLParser):
    """What a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.inline = ""
        self.within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.within = tag
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within in ("script", "style"):
            self.inline += data


@pytest.fixture(scope="module")
def page() -> Page:
    page = Page()
    page.feed(page_files()["/"].content.decode())
    return page


def scripts() -> dict[str, str]:
    return {path: file.content.decode() for path, file in page_files().items() if path.endswith(".js")}


def test_every_file_has_its_type_and_a_policy_that_allows_no_inline_code(client: TestClient) -> None:
    types = {"/": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in page_paths():
        response = client.get(path)
        kind = "/" if path == "/" else path[path.rfind(".") :]
        assert response.status_code == 200 and response.headers["content-type"].startswith(types[kind])
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        again = client.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static/..%2fpage.py", "//etc/passwd",
     "/static/app.js/", "/static/index.html", "/static/\x00", "/static/nothing.js"],
)  # fmt: skip
def test_no_path_leads_to_another_file(client: TestClient, path: str) -> None:
    try:
        assert client.get(path, follow_redirects=False).status_code in (307, 404)
    except Exception as error:  # the client itself refuses some of them
        assert "URL" in f"{type(error).__name__}"


def test_the_page_has_no_inline_code_and_refers_only_to_itself(page: Page) -> None:
    assert page.inline.strip() == ""
    assert not [name for name, _ in page.attributes if name == "style" or name.startswith("on")]
    served = page_paths()
    for link in page.links:
        assert link.startswith("#") or f"/{link}" in served, link
    for path, file in page_files().items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|url\(", text), path


def test_every_id_occurs_once_and_every_reference_has_its_id(page: Page) -> None:
    assert sorted(page.ids) == sorted(set(page.ids))
    for name, value in page.attributes:
        if name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            assert set(value.split()) <= set(page.ids), f"{name}={value}"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_scripts_find_what_they_look_for_and_import_only_each_other(page: Page) -> None:
    for path, source in scripts().items():
        for name in re.findall(r"\b(?:byId|icon|setIcon)\([^)\"]*\"([\w-]+)\"", source):
            assert name in page.ids or f"icon-{name}" in page.ids, f"{path} looks for #{name}"
        for name in re.findall(r"from \"\./([\w.]+)\"", source):
            assert f"{PREFIX}{name}" in page_paths(), f"{path} imports {name}"


def test_no_script_turns_text_into_markup_or_code() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|srcdoc|setHTML"
    for path, source in scripts().items():
        assert not re.search(forbidden, source), path
