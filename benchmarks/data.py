"""The data: the same rows and the same answers for the same seed, made as a stream, so that any number fits.

Rows are reviews: 60 % plain English-like text, 25 % with Latin accents, 10 % with emoji, 5 % Chinese, Japanese and
Cyrillic; lengths are log-normal with a median of 600 characters; one row in a thousand holds control characters. The
words are random, so the texts compress better than real ones. Answers are those of a Batch API: in an order of their
own, 1 % errors, 0.5 % refused, cut off or no JSON.

    python -m benchmarks.data --rows 1000000 FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

FILE_ROWS, GROUP_ROWS = 100_000, 5_000
_CORPUS = 1_000_000
_SHARES = (0.60, 0.25, 0.10, 0.05)
_CUSTOM_ID = re.compile(rb'"custom_id": ?"([^"]*)"')


CONSTANT_ANSWER = json.dumps({"sentiment": "negative", "side_effects": ["nausea", "headache"], "severity": "moderate"})
"""What the benchmarks' server answers everything with."""


@contextmanager
def data_folder(given: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="ractobatch-bench-") as name:
        yield Path(name)


def rows_folder(folder: Path, rows: int, *, seed: int = 0) -> Path:
    """A Parquet data set of so many rows below `folder`; one that is there already is taken."""
    import pyarrow.parquet as pq

    target = folder / f"rows-{rows}-{seed}"
    done = target / "_done"
    if done.exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    texts = Texts(seed)
    for start in range(0, rows, FILE_ROWS):
        number = min(FILE_ROWS, rows - start)
        with pq.ParquetWriter(target / f"{start // FILE_ROWS:05d}.parquet", _schema(), compression="zstd") as writer:
            for first in range(start, start + number, GROUP_ROWS):
                writer.write_table(texts.table(first, min(GROUP_ROWS, start + number - first)))
    done.touch()
    return target


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [("id", pa.int64()), ("condition", pa.string()), ("rating", pa.int64()), ("user_message", pa.string())]
    )


class Texts:
    """Random reviews."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        letters = "etaoinshrdlcumwfgypbvk"
        accented = letters + "éèüöäñçåøßêí"
        emoji = "😀😢💊🤢👍🙏🔥❤️🤕😴"
        east = "我服用这种药物三个月后头痛和恶心减轻了とても良い薬でしたがふしぎな夢を見ました"
        cyrillic = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэф"
        words = [self._words(letters), self._words(accented), self._words(letters), self._words(cyrillic)]
        words[2] = [word if self._draw.random() > 0.15 else f"{word} {self._pick(emoji, 1)}" for word in words[2]]
        words[3] = [word if self._draw.random() > 0.6 else self._pick(east, 6) for word in words[3]]
        self._corpora = [self._corpus(one) for one in words]
        self._conditions = self._words(letters)[:200]

    def table(self, first: int, number: int) -> pa.Table:
        """So many rows, whose ids begin at `first`."""
        import pyarrow as pa

        draw = self._draw
        kinds = draw.choice(len(_SHARES), number, p=_SHARES).tolist()
        lengths = np.clip(draw.lognormal(np.log(600), 0.65, number), 20, 12_000).astype(int).tolist()
        starts = draw.integers(0, _CORPUS - 12_000, number).tolist()
        texts = []
        for index, (kind, start, length) in enumerate(zip(kinds, starts, lengths, strict=True)):
            text = f"Case {first + index}: {self._corpora[kind][start : start + length]}"
            texts.append(f"\x07{text}\t\x1b[0m\n" if (first + index) % 1000 == 999 else text)
        columns = {
            "id": range(first, first + number),
            "condition": [self._conditions[one] for one in draw.integers(0, 200, number).tolist()],
            "rating": draw.integers(1, 11, number),
            "user_message": texts,
        }
        return pa.table({name: pa.array(values) for name, values in columns.items()}, schema=_schema())

    def _words(self, alphabet: str) -> list[str]:
        return [self._pick(alphabet, length) for length in self._draw.integers(2, 11, 5_000).tolist()]

    def _pick(self, alphabet: str, length: int) -> str:
        return "".join(alphabet[one] for one in self._draw.integers(0, len(alphabet), length).tolist())

    def _corpus(self, words: list[str]) -> str:
        text, marks = "", (" ", " ", " ", " ", " ", " ", ", ", ". ", '. "', "\n")
        while len(text) < _CORPUS:
            pairs = zip(self._draw.zipf(1.2, 10_000).tolist(), self._draw.integers(0, len(marks), 10_000), strict=True)
            text += "".join(words[one % len(words)] + marks[mark] for one, mark in pairs)
        return text[:_CORPUS]


def write_answers(requests: Path, target: Path, *, seed: int = 0, broken: float = 0.0, faultless: bool = False) -> int:
    """The output file that answers a request file, in any order; how many lines it has.

    Args:
        requests: The request file.
        target: Where to write.
        seed: Of what is drawn.
        broken: The share of lines that are cut in half.
        faultless: No errors, nothing refused, cut off or without JSON.
    """
    draw = random.Random(f"{seed}/{requests.name}")
    with requests.open("rb") as source:
        ids = [match[1].decode() for line in source if (match := _CUSTOM_ID.search(line))]
    draw.shuffle(ids)
    with target.open("wb", buffering=1 << 18) as file:
        for custom_id in ids:
            line = json.dumps(
                _answer(custom_id, draw, 1.0 if faultless else draw.random()), ensure_ascii=False
            ).encode()
            file.write((line[: len(line) // 2] if draw.random() < broken else line) + b"\n")
    return len(ids)


_EFFECTS = ("nausea", "headache", "dry mouth", "vertige", "müde", "schlechte Träume", "weight gain", "吐き気", "сыпь")


def _answer(custom_id: str, draw: random.Random, lot: float) -> dict[str, Any]:
    token = f"{draw.getrandbits(96):024x}"
    line: dict[str, Any] = {"id": f"batch_req_{token}", "custom_id": custom_id}
    if lot < 0.01:
        error = {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "overloaded"}
        return {**line, "response": {"status_code": 503, "request_id": token, "body": {"error": error}}, "error": None}
    effects = draw.sample(_EFFECTS, draw.randrange(5))
    label = {
        "sentiment": draw.choice(("positive", "neutral", "negative")),
        "side_effects": effects,
        "severity": f"{draw.choice(('mild', 'moderate', 'severe'))}: the patient says so {draw.randrange(9)} times",
    }
    content, refusal, reason = json.dumps(label, ensure_ascii=False), None, "stop"
    if lot < 0.0117:
        content, refusal = None, "I cannot help with that."
    elif lot < 0.0134:
        content, reason = content[: len(content) // 2], "length"
    elif lot < 0.015:
        content = "The patient was rather unhappy, I would say."
    message = {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}
    given, made = draw.randrange(100, 900), draw.randrange(20, 60)
    body = {
        "id": f"chatcmpl-{token}",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }
    return {**line, "response": {"status_code": 200, "request_id": f"req_{token}", "body": body}, "error": None}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    print(rows_folder(given.folder, given.rows))


if __name__ == "__main__":
    _main()
