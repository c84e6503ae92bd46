"""A processor's items as an input file: everything that would fail later is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.models import BatchItem
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.items import input_file

LIMITS = Limits(50_000, 180_000_000)


def item(custom_id: str = "a", **values: Any) -> BatchItem:
    return BatchItem(**{"custom_id": custom_id, "user_message": "hi", **values})


def bodies(*items: BatchItem, model: str = "gpt-4o-mini") -> list[dict[str, Any]]:
    data = input_file(items, RequestTemplate(model, "Be brief."), LIMITS)
    return [json.loads(line)["body"] for line in data.splitlines()]


def refusal(*items: BatchItem, limits: Limits = LIMITS) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        input_file(items, RequestTemplate("gpt-4o-mini", "Be brief."), limits)
    return caught.value


def test_a_line_is_the_original_line() -> None:
    """Each line has the keys and values that ractogateway sends."""
    data = input_file([item()], RequestTemplate("gpt-4o-mini", "Be brief."), LIMITS)
    assert json.loads(data) == {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-4o-mini",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "temperature": 0.0,
            "max_tokens": 4096,
        },
    }


def test_temperature_and_max_tokens_can_be_left_out() -> None:
    """None leaves either out."""
    (body,) = bodies(item(temperature=None, max_tokens=None))
    assert set(body) == {"model", "messages"}


def test_a_reasoning_model_gets_no_default_temperature() -> None:
    """The default temperature is not sent to a model that takes none; one that was asked for is."""
    plain, asked = bodies(item(), item("b", temperature=1.0), model="gpt-5-mini")
    assert "temperature" not in plain
    assert plain["max_completion_tokens"] == 4096
    assert asked["temperature"] == 1.0


def test_extra_removes_and_overrides() -> None:
    """`extra` goes last, and None in it removes a key."""
    (body,) = bodies(item(extra={"temperature": None, "seed": 3, "max_tokens": 7}))
    assert "temperature" not in body
    assert (body["seed"], body["max_tokens"]) == (3, 7)


def test_no_items() -> None:
    """An empty list is refused."""
    assert "no items" in str(refusal())


def test_too_many_items() -> None:
    """More items than one batch takes are refused, and the first of them too many is told."""
    error = refusal(*[item(str(n)) for n in range(50_001)])
    assert "50,001 items" in str(error)
    assert error.row == 50_000


def test_too_many_bytes() -> None:
    """More bytes than one batch takes are refused, at the item that goes past."""
    error = refusal(item("a"), item("b", user_message="x" * 900), limits=Limits(10, 1000))
    assert (error.row, error.custom_id) == (1, "b")
    assert "1,000 bytes" in str(error)


def test_duplicate_ids() -> None:
    """Both items with one id are named."""
    error = refusal(item("a"), item("b"), item("a"))
    assert str(error) == "Item 2 (custom_id 'a'): item 0 has the same custom_id"
    assert (error.row, error.custom_id) == (2, "a")


def test_over_long_ids() -> None:
    """64 characters are the limit."""
    assert len(bodies(item("x" * 64))) == 1
    error = refusal(item("a"), item("x" * 65))
    assert "65 characters" in str(error)
    assert error.row == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_no_json(value: Any) -> None:
    """NaN anywhere in `extra` is refused, and the item is named."""
    error = refusal(item("a"), item("b", extra={"logit_bias": {"1": value}}))
    assert str(error).startswith("Item 1 (custom_id 'b'): the request cannot be written as JSON")
    assert (error.row, error.custom_id) == (1, "b")


def test_half_a_character() -> None:
    """A lone surrogate is refused, and the item is named."""
    assert refusal(item("a", extra={"user": "\ud800"})).custom_id == "a"


def test_two_models() -> None:
    """One batch takes one model; the item that asks for another is named."""
    error = refusal(item("a"), item("b", extra={"model": "gpt-4o"}))
    assert error.row == 1
    assert "'gpt-4o-mini'" in str(error)
    assert [body["model"] for body in bodies(item("a", extra={"model": "x"}), item("b", extra={"model": "x"}))] == [
        "x",
        "x",
    ]
