"""The OpenAPI document, tried by schemathesis: what it allows is answered as it says, what it forbids is refused."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

ANSWERS = "answers"
OPERATIONS = (
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("post", "/v1/completions"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/embeddings"),
    ("post", "/tokenize"),
    ("post", "/detokenize"),
)
CHECKS = {
    # Some rules are not those of JSON schemas: ids below the model's vocabulary, prompts within its context.
    "positive_data_acceptance": {"expected-statuses": ["200", "400", "404"]},
    "negative_data_rejection": {"expected-statuses": ["400", "404", "405", "406", "415"]},
}
LIMITS = ("max_tokens", "max_completion_tokens")


@pytest.fixture(scope="module")
def document(app: object) -> Any:
    import schemathesis
    from schemathesis.config import SchemathesisConfig

    return schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict({"checks": CHECKS}))


def test_the_document_has_every_route(address: str, app: Any) -> None:
    found = httpx.get(f"{address}/openapi.json").json()
    assert {(method, path) for path, methods in found["paths"].items() for method in methods} == set(OPERATIONS)
    paths = {route.path.replace(":path", "") for route in app.routes}
    assert {path for _, path in OPERATIONS} <= paths
    is_of_page = re.compile(r"/|/static/.*|/openapi\.json")
    assert {path for path in paths if not is_of_page.fullmatch(path)} == {path for _, path in OPERATIONS}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS[:4])
def test_what_is_asked_for_without_a_body_is_as_the_document_says(document: Any, method: str, path: str) -> None:
    case = document[path][method].Case(path_parameters={"model": ANSWERS} if "{" in path else {})
    assert case.call_and_validate().status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS[4:])
def test_the_document_is_true(document: Any, method: str, path: str, mode: str) -> None:
    from schemathesis import GenerationMode

    @given(case=document[path][method].as_strategy(generation_mode=GenerationMode(mode)))
    @settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def try_one(case: Any) -> None:
        if isinstance(case.body, dict):
            if isinstance(case.body.get("model"), str) and case.body["model"]:
                case.body["model"] = ANSWERS
            for key in LIMITS:
                if type(case.body.get(key)) is int and case.body[key] > 4:
                    case.body[key] = 4  # so that it takes little time
        case.call_and_validate()

    try_one()
