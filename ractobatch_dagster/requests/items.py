"""A processor's items as one input file, checked so that nothing is uploaded in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.models import BatchItem
from ractobatch_dagster.requests.body import RequestTemplate, is_reasoning_model
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.encode import encode_line

__all__ = ["input_file"]

_MAX_ID = 64  # no limit of OpenAI's is documented; this is the least that any Batch API takes
_SEVERAL = "Send several batches, or use `batch_asset`, which does."


def input_file(items: Sequence[BatchItem], template: RequestTemplate, limits: Limits) -> bytes:
    """The items as an input file.

    Raises:
        InvalidInputError: One of them cannot be sent, or there are none, or more than one batch takes.
    """
    if not items:
        raise InvalidInputError("There are no items to send.")
    if len(items) > limits.max_requests:
        raise InvalidInputError(
            f"{len(items):,} items are more than the {limits.max_requests:,} that one batch takes. {_SEVERAL}",
            row=limits.max_requests,
        )
    lines: list[bytes] = []
    first: dict[str, int] = {}
    model: Any = None
    size = 0
    for row, item in enumerate(items):
        try:
            _check_id(item.custom_id, first.setdefault(item.custom_id, row), row)
            body = _body(item, template)
            model = body.get("model") if row == 0 else model
            if body.get("model") != model:
                raise InvalidInputError(f"asks for another model than the items before it, {model!r}: a batch has one")
            lines.append(encode_line(item.custom_id, body, endpoint=template.endpoint))
            size += len(lines[-1])
            if size > limits.max_bytes:
                raise InvalidInputError(f"goes past the {limits.max_bytes:,} bytes that one batch takes. {_SEVERAL}")
        except InvalidInputError as error:
            raise InvalidInputError(
                f"Item {row} (custom_id {item.custom_id[:_MAX_ID]!r}): {error}", custom_id=item.custom_id, row=row
            ) from error
    return b"".join(lines)


def _check_id(custom_id: str, first: int, row: int) -> None:
    if len(custom_id) > _MAX_ID:
        raise InvalidInputError(f"its custom_id has {len(custom_id)} characters, and {_MAX_ID} is the limit")
    if first != row:
        raise InvalidInputError(f"item {first} has the same custom_id")


def _body(item: BatchItem, template: RequestTemplate) -> dict[str, Any]:
    """The item's body. A reasoning model gets a temperature only where one was asked for, as it takes none."""
    default = "temperature" not in item.model_fields_set
    reasons = is_reasoning_model(str(item.extra.get("model", template.model)))
    return template.body(
        item.user_message,
        temperature=None if default and reasons else item.temperature,
        max_tokens=item.max_tokens,
        extra=item.extra,
    )
