"""A fuzz target for the readers of result files: any bytes give exactly one outcome per request, and an Arrow table.

What reads a file by columns, plain answers the quick way, comes to the same table as what reads it line by line.

`python -m tests.results.fuzz_reader --seconds 60` starts from lines as providers write them, and mutates bytes, tokens,
values and lines. What fails is written down as a seed that replays alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

from ractobatch_dagster.models import ROW_STATUSES, BatchStatus
from ractobatch_dagster.results.classify import no_line
from ractobatch_dagster.results.join import join_files, join_lines
from ractobatch_dagster.results.lines import read_lines
from ractobatch_dagster.results.outcomes import OUTCOMES, Columns, as_values

ASKED = [f"row-{number:08d}" for number in range(4)]

_VALUES: list[Any] = [
    None, "", 0, -1, 1e308, 2**70, True, [], {}, [[]], "\ud800", "\u2028", "batch_expired", 200, 429, "200",
    {"code": 5},    {"error": {}}, [{"message": None}], {"choices": [None]}, {"content": [{"text": 1}]}, "x" * 5000,
]  # fmt: skip
_PIECES = [
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"{",
    b"}",
    b'"',
    b"\\u",
    b"null",
    b",",
    b"[" * 50,
    b"\xe2\x80\xa8",
]
_STATUSES = [BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED, BatchStatus.FAILED]


def line(custom_id: str, chance: random.Random) -> dict[str, Any]:
    """One line as a provider writes it."""
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    message = {"role": "assistant", "content": '{"sentiment": "positive"}', "refusal": None}
    body = {"id": "c", "model": "gpt-4o-mini", "usage": usage}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]  # type: ignore[assignment]
    response: dict[str, Any] = {"status_code": 200, "request_id": "r", "body": body}
    error = None
    kind = chance.randrange(4)
    if kind == 1:
        response = {"status_code": 429, "request_id": "r", "body": {"error": {"code": "rate_limit_exceeded"}}}
    elif kind == 2:
        response, error = None, {"code": "batch_expired", "message": "late"}  # type: ignore[assignment]
    elif kind == 3:
        return {"custom_id": f"{custom_id}_s_0_1", "result": {"type": "succeeded", "message": anthropic_message()}}
    return {"id": "b", "custom_id": custom_id, "response": response, "error": error}


def anthropic_message() -> dict[str, Any]:
    """A message as Anthropic writes it."""
    usage = {"input_tokens": 5, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 1, "output_tokens": 3}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": '{"sentiment": "positive"}'}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def scrambled(value: Any, chance: random.Random) -> Any:
    """A JSON value with one thing in it replaced, renamed or gone."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        what = chance.randrange(4)
        if what == 0:
            return {name: one for name, one in value.items() if name != key}
        if what == 1:
            return {**value, key: chance.choice(_VALUES)}
        return {**value, key: scrambled(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        return [scrambled(value[0], chance), *value[1:]] if chance.random() < 0.7 else value * 2
    return chance.choice(_VALUES)


def result_file(chance: random.Random) -> bytes:
    """A result file in which some things are wrong."""
    lines: list[bytes] = []
    for custom_id in chance.choices([*ASKED, "stranger"], k=chance.randrange(8)):
        value: Any = line(custom_id, chance)
        for _ in range(chance.choice((0, 0, 1, 2, 5))):
            value = scrambled(value, chance)
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
        lines.append(text.encode("utf-8", "surrogatepass"))
    data = bytearray(chance.choice((b"\n", b"\n", b"\r\n")).join(lines))
    for _ in range(chance.choice((0, 0, 0, 1, 3, 20))):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((0, 0, 1, 7))
        data[place : place + length] = chance.choice(_PIECES) if chance.random() < 0.7 else chance.randbytes(3)
    return bytes(data)


def check(seed: int) -> None:
    """Read one file; raises where the reader does not keep its word."""
    chance = random.Random(seed)
    data = result_file(chance)
    size = chance.choice((1, 7, 1 << 20))
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    status = chance.choice(_STATUSES)
    odd: list[tuple[str, bytes]] = []
    outcomes = join_lines(ASKED, read_lines(chunks), status, lambda *one: odd.append(one))
    assert list(outcomes) == ASKED
    assert all(outcome.status in ROW_STATUSES and outcome.custom_id == name for name, outcome in outcomes.items())
    columns = Columns()
    for outcome in outcomes.values():
        columns.add(as_values(outcome))
    kept: list[tuple[str, bytes]] = []
    table = join_files(ASKED, chunks, lambda custom_id: no_line(custom_id, status), lambda *one: kept.append(one))
    table.validate(full=True)
    assert table.schema == OUTCOMES()
    assert table.to_pylist() == columns.table().to_pylist()
    assert [what for what, _ in kept] == [what for what, _ in odd]
    assert all(isinstance(line, bytes) for _, line in [*kept, *odd])


def fuzz(seconds: float, first: int = 0) -> int:
    """Check files for so long; how many they were."""
    end, seed = time.monotonic() + seconds, first
    while time.monotonic() < end:
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        seed += 1
    return seed - first


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(1 << 40))
    chosen = parser.parse_args()
    print(f"{fuzz(chosen.seconds, chosen.first):,} files from seed {chosen.first}: one outcome per request in each")
