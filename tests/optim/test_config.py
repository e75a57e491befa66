"""The settings refuse what no optimizer can do."""

from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, ScheduleConfig, SgdConfig


@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("kind", [SgdConfig, AdamWConfig, MuonConfig])
def test_a_learning_rate_is_positive_and_finite(kind: type, lr: float) -> None:
    with pytest.raises(ValidationError):
        kind(lr=lr)


def test_nesterov_without_momentum_names_the_remedy() -> None:
    with pytest.raises(ValidationError, match=r"optim\.momentum=0\.9"):
        SgdConfig(nesterov=True)


def test_an_optimizer_refuses_the_fields_of_another() -> None:
    with pytest.raises(ValidationError, match="ns_steps"):
        TypeAdapter(OptimConfig).validate_python({"name": "adamw", "ns_steps": 5})


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_every_schedule_is_chosen_by_its_name(name: str) -> None:
    assert TypeAdapter(ScheduleConfig).validate_python({"name": name}).name == name


@pytest.mark.parametrize("kind", [SgdConfig, AdamWConfig, MuonConfig])
def test_name_and_learning_rate_are_shown_first(kind: type) -> None:
    assert list(kind.model_fields)[:2] == ["name", "lr"]


@pytest.mark.parametrize("member", [*OptimConfig.__origin__.__args__, *ScheduleConfig.__origin__.__args__])
def test_every_setting_but_the_name_says_what_it_means(member: type) -> None:
    assert not [name for name, field in member.model_fields.items() if name != "name" and not field.description]
