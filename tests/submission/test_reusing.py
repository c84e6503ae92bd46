"""Answers that are taken over: each by the row that asks for it, in whatever order, and looked at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.requests import hashes
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission import answered, reusing
from ractobatch_dagster.submission.asking import Asking
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.lines import read_encoder
from ractobatch_dagster.submission.reusing import Known
from tests.submission.test_engine import Bench

TEXTS = [f"text {number}" for number in range(23)]


@pytest.fixture
def bench(batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench where few rows are many."""
    monkeypatch.setattr(reusing, "_AT_ONCE", 4)
    monkeypatch.setattr(answered, "_READ_ROWS", 3)
    monkeypatch.setattr(hashes, "_HELD", 4)
    return Bench(batch_server, tmp_path / "store")


def _told(bench: Bench, *texts: str) -> dict[str, object]:
    """Each prompt's request id, once all have landed; that is told of each request but once."""
    files = bench.open(*texts)
    bench.finish(files)
    bench.land()
    outcomes = bench.outcomes(files)
    rows, ids = (outcomes[name].to_pylist() for name in ("row", "request_id"))
    assert rows == list(range(len(texts)))
    return dict(zip(texts, ids, strict=True))


def test_rows_in_another_order_take_over_their_own_answers(bench: Bench) -> None:
    """Whichever way the rows went, nothing is asked but what is new, and nobody has the answer to another question."""
    paid = _told(bench, *TEXTS)
    assert len(set(paid.values())) == len(TEXTS)
    moved = [TEXTS[number * 7 % 23] for number in range(23)]
    for texts in (TEXTS[::-1], ["new", *moved[:9], "newer", *moved[9:]], TEXTS):
        before = bench.server.billed.total()
        told = _told(bench, *texts)
        assert bench.server.billed.total() - before == len(set(texts) - set(paid))
        assert {text: told[text] for text in TEXTS} == {text: paid[text] for text in TEXTS}
        paid |= told


def test_an_answer_is_looked_at_once(bench: Bench, tmp_path: Path) -> None:
    """However many passes over the hashes it takes to find out which rows have one."""
    _told(bench, *TEXTS)
    landed = bench.table.log.load()
    assert landed is not None
    source = bench.table.submission(landed.state.partitions[0].submission)
    seen: list[str] = []
    asking = Asking(source, [(0, len(TEXTS))], len(TEXTS), read_encoder(source))
    into = TableFiles(Store(tmp_path / "other"), "answers").submission("other")
    known = Known(into, [source], tmp_path, validate=lambda text, _: seen.append(text))
    assert known.take(asking.hashes, len(TEXTS)).tolist() == list(range(len(TEXTS)))
    assert len(seen) == len(TEXTS)
