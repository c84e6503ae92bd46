"""gpt-batch-api: a task manager, which one has to write for each task; its caps on cost are lifted."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pandas as pd
from gpt_batch_api import gpt_requester, task_manager, utils

from benchmarks.peers.driving import (
    BATCH_ROWS,
    MODEL,
    SYSTEM,
    Label,
    Place,
    columns,
    count_tokens_offline,
    drive,
)

_PLENTY = 1_000_000_000


@dataclasses.dataclass
class Labelled:
    """One answered row."""

    id: str
    label: Label


class LabelledFile(task_manager.DataclassListOutputFile[Labelled]):
    """All answered rows, as lines of JSON."""

    Dataclass = Labelled


class Task(task_manager.TaskManager):
    """One request for each row of a frame."""

    def __init__(self, frame: pd.DataFrame, place: Place) -> None:
        super().__init__(
            task_dir=str(place.folder / "task"),
            name_prefix="label",
            output_factory=LabelledFile.output_factory(),
            init_meta={},
            wandb=False,
            openai_api_key=place.api_key,
            client_base_url=place.base_url,
            remote_update_interval=1.0,
            min_batch_requests=1,
            max_batch_requests=BATCH_ROWS,
            max_batch_mb=190,
            max_batch_ktokens=_PLENTY,
            max_batch_cost=_PLENTY,
            max_remote_batches=100,
            max_remote_ktokens=_PLENTY,
            max_remote_cost=_PLENTY,
            max_session_ktokens=_PLENTY,
            max_session_cost=_PLENTY,
            max_task_ktokens=_PLENTY,
            max_task_cost=_PLENTY,
        )
        self.frame = frame

    def wipe_unfinished(self, wipe_failed: bool, rstack: utils.RevertStack) -> bool:
        raise NotImplementedError

    def generate_requests(self) -> bool:
        for start in range(0, len(self.frame), BATCH_ROWS):
            part = self.frame.iloc[start : start + BATCH_ROWS]
            for id_, text in zip(part["id"].tolist(), part["user_message"].tolist(), strict=True):
                if str(id_) not in self.T.committed_samples:
                    self.GR.add_request(_request(str(id_), text))
            if self.GR.P and self.commit_requests():  # each commit writes the whole state down
                return False
        return True

    def commit_cached_request(self, cached_req: gpt_requester.CachedGPTRequest) -> None:
        self.T.committed_samples[cached_req.item.req.meta["id"]] = None

    def cached_request_keys(self, cached_reqs: list[gpt_requester.CachedGPTRequest]) -> set[str] | None:
        return {cached.item.req.meta["id"] for cached in cached_reqs}

    def process_batch_result(self, result: gpt_requester.BatchResult, rstack: utils.RevertStack) -> bool:
        known, taken = len(self.D.entries), []

        def revert() -> None:
            del self.D.entries[known:]
            for id_ in taken:
                self.T.succeeded_samples.pop(id_, None)
                self.T.failed_samples.pop(id_, None)

        rstack.callback(revert)
        for info in result.info.values():
            id_ = info.req_info.meta["id"]
            label = _label(info)
            if label is not None:
                self.T.succeeded_samples[id_] = None
                self.D.entries.append(Labelled(id_, label))
            elif not info.retry:
                self.T.failed_samples[id_] = None
            else:
                continue
            taken.append(id_)
        return bool(taken)


def _request(id_: str, text: str) -> gpt_requester.GPTRequest:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    payload = {"model": MODEL, "messages": messages, "max_tokens": 200, "response_format": Label}
    return gpt_requester.GPTRequest(payload=payload, meta={"id": id_})


def _label(info: gpt_requester.ResultInfo) -> Label | None:
    if info.err_info is not None or info.resp_info is None or not info.resp_info.payload.choices:
        return None
    parsed: Any = info.resp_info.payload.choices[0].message.parsed
    return parsed if isinstance(parsed, Label) else None


def run(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    task = Task(frame, place)
    if not task.run():
        raise SystemExit("the task is not done")
    with LabelledFile.read(task.output.path_base) as output:
        answered = {entry.id: entry.label.model_dump() for entry in output.all_entries()}
    return columns(frame["id"], [answered.get(str(id_)) for id_ in frame["id"].tolist()])


logging.disable(logging.WARNING)
count_tokens_offline()
drive(run)
