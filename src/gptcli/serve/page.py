"""The page at `/`: a fixed set of files of this package, with the headers by which browsers run nothing else.

The page loads nothing from elsewhere and needs no build step. Its URLs are relative, so that it works behind a proxy
that adds a prefix to them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptcli.storage import read_regular

FOLDER = Path(__file__).with_name("static")
INDEX = "index.html"
PREFIX = "/static/"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Scripts, styles and requests of the page's own origin; no inline code, no frames, no text that becomes HTML."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page, read into memory once."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """The entity tag by which browsers ask whether the file has changed."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    async def respond(self, request: Request) -> Response:
        """Return the file, or 304 if the browser has this version of it."""
        headers = {**HEADERS, "ETag": self.etag}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


@cache
def page_files() -> dict[str, PageFile]:
    """Return the files of the page by the path of their URL; `/` is the page itself."""
    found = {}
    for file in FOLDER.iterdir():
        if file.suffix in MEDIA_TYPES:
            path = "/" if file.name == INDEX else f"{PREFIX}{file.name}"
            found[path] = PageFile(read_regular(file), MEDIA_TYPES[file.suffix])
    return found


def page_paths() -> frozenset[str]:
    """Return the paths that are answered without a key, since the page is what asks for one."""
    return frozenset(page_files())


def page_routes() -> list[Route]:
    """Return one route for each file of the page, so that no path of a request ever becomes the name of a file."""
    return [Route(path, file.respond) for path, file in page_files().items()]
