"""Our side of every comparison: the one place that knows how the package's inside is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.peers.driving import AIM, ROLE, RULES, Label, Place
from ractobatch_dagster import RactoPrompt
from ractobatch_dagster.form import Form
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.encode import Encoder
from ractobatch_dagster.requests.inputs import write_inputs
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.assembling import Assembly
from ractobatch_dagster.submission.collecting import read_answers
from ractobatch_dagster.submission.engine import SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.lines import read_encoder, write_input
from ractobatch_dagster.submission.opening import Terms, open_submission
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import Poll
from ractobatch_dagster.submission.state import BatchState, Owner, SubmissionState, TableState
from ractobatch_dagster.table_file import write_table_file

if TYPE_CHECKING:
    from ractobatch_dagster.provider.client import Provider

ENCODES, DECODES = (1, 2), (1, 2)
"""With how many processes it encodes and decodes."""

PROVIDER = "openai https://api.openai.com/v1"
MODEL = "gpt-4o-mini"
LIMITS = Limits(max_requests=50_000, max_bytes=190_000_000)


def template(model: str = MODEL) -> RequestTemplate:
    """What all requests share."""
    prompt = RactoPrompt(role=ROLE, aim=AIM, constraints=list(RULES), tone="neutral", output_format=Label)
    return RequestTemplate.of(model, prompt, temperature=0.0, max_tokens=200)


def write_requests(frame: Any, folder: Path, *, processes: int = 1) -> dict[str, int]:
    """Encode a frame into request files within the limits, and hash each request; how much that was."""
    encoder = Encoder.of(PROVIDER, template())
    rows = total = 0
    for file in write_inputs(frame, encoder, LIMITS, folder, processes=0 if processes == 1 else processes):
        rows, total = rows + len(file.hashes) // 16, total + file.size
    return {"rows": rows, "bytes": total}


def seal(
    frame: Any, folder: Path, *, model: str = MODEL, provider: str = PROVIDER, reuse: bool = True
) -> SubmissionFiles:
    """Open a submission of a frame in a store of its own: rows sealed, batches planned, nothing sent.

    Args:
        frame: The rows.
        folder: The store's.
        model: The model.
        provider: The provider's identity.
        reuse: Whether answers that the store holds are taken over.
    """
    table = TableFiles(Store(folder), "labels")
    terms = Terms(provider=provider, template=template(model), limits=LIMITS, reuse=Reuse() if reuse else None)
    opened = open_submission(table, Owner(asset="labels"), {None: frame}, terms, now=time.time)
    return table.submission(opened.submissions[None])


def sealed(folder: Path) -> SubmissionFiles:
    """The submission that was opened there."""
    table = TableFiles(Store(folder), "labels")
    version = table.log.load()
    if version is None:
        raise FileNotFoundError(f"{folder} holds no submission")
    return table.submission(version.state.partitions[0].submission)


def write_batches(
    files: SubmissionFiles, folder: Path, use: Callable[[BatchState, Path], None] = lambda _, __: None
) -> dict[str, int]:
    """Make the input file of every batch, which is there to `use`, and remove it, as after an upload."""
    encoder, state = read_encoder(files), files.state()
    for batch in state.batches:
        path = folder / "input.jsonl"
        write_input(files, batch, encoder, path)
        use(batch, path)
        path.unlink()
    return {"rows": state.rows, "requests": state.requests, "bytes": sum(batch.size for batch in state.batches)}


def land(files: SubmissionFiles, answers: Path, target: Path, *, processes: int = 1) -> dict[str, int]:
    """Read what every batch returned, and write the table: classified, typed, joined to the rows.

    Args:
        files: The submission.
        answers: The folder of the output files, by the batch's number.
        target: The table's file.
        processes: How many read at a time.
    """
    state = _collected(files, answers, processes)
    rows = _assemble(files, state, target)
    return {"rows": rows, "odd_lines": sum(sum(batch.anomalies.values()) for batch in state.batches)}


def settle(files: SubmissionFiles, answers: Path) -> None:
    """Read what every batch returned, and commit that all is collected and has landed, without a table."""
    batches = _collected(files, answers, 1).batches
    files.replace(lambda _: {"batches": batches, "collected": True})

    def landed(state: TableState | None) -> TableState | None:
        return state and msgspec.structs.replace(
            state, partitions=tuple(msgspec.structs.replace(one, landed=one.submission) for one in state.partitions)
        )

    TableFiles(files.store, "labels").log.update(landed)


def _collected(files: SubmissionFiles, answers: Path, processes: int) -> SubmissionState:
    workers = Workers(processes, 0 if processes == 1 else processes)

    def read(batch: BatchState) -> BatchState:
        ended = msgspec.structs.replace(
            batch, batch_id=f"{files.id}_{batch.number}", status=BatchStatus.COMPLETED, output_file_id="file-1"
        )
        return workers.apart(read_answers, files, ended, answers / f"{batch.number:05d}.jsonl")

    state = files.state()
    collected: dict[int, BatchState] = {}
    for batch, result in workers.each(read, state.batches):
        if not isinstance(result, BatchState):
            raise result
        collected[batch.number] = result
    workers.close()  # otherwise their CPU time would not be counted
    return state.with_batches(collected)


def _assemble(
    files: SubmissionFiles, state: SubmissionState, target: Path, carry: tuple[str, ...] | None = None
) -> int:
    share = state.partition(None)
    if share is None:
        raise FileNotFoundError("the submission has no rows")
    assembly = Assembly(files, state, share, ResultTable(Form(Label), state.fingerprint), carry)
    return write_table_file(target, assembly.schema, assembly.blocks()).rows


def provider(base_url: str, api_key: str) -> Provider:
    """The package's own client of a server."""
    from ractobatch_dagster.provider.client import Account, Provider

    return Provider(Account(api_key=api_key, base_url=base_url, timeout=600))


def whole_client(frame: Any, place: Place, model: str, client: Provider, pause: float) -> Path:
    """From a frame to a landed table, over HTTP: submit, look now and then, collect, land; where the table is."""
    with place.part("sealed"):
        files = seal(frame, place.folder, model=model, provider=client.identity)
    engine = Engine(files.store, client, limits=LIMITS)
    with place.part("sent"):
        engine.advance(files, steps=SUBMIT)
    with place.part("watched"):
        while not all(batch.stage == "ended" for batch in engine.advance(files, steps={Poll}).batches):
            time.sleep(pause)
    with place.part("landed"):
        state, target = engine.advance(files), place.folder / "labels.parquet"
        _assemble(files, state, target, ("id",))  # as much of the input as the other clients give back
    return target


def versions() -> Mapping[str, str]:
    """What of others it rests on."""
    from importlib.metadata import version

    names = ("ractobatch-dagster", "pyarrow", "pandas", "msgspec", "openai", "obstore", "pydantic", "dagster")
    return {name: version(name) for name in names}
