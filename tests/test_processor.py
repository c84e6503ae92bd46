"""`OpenAIBatchProcessor`: ractogateway's surface, and one result per item whatever the API returns, over real HTTP."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel, field_validator

from ractobatch_dagster import BatchItem, FinishReason, OpenAIBatchProcessor, RactoPrompt
from ractobatch_dagster.local import Answer, Faults, LocalServer
from tests.scripted import PROMPT, Scripted, items, made


class Mood(BaseModel):
    mood: str

    @field_validator("mood")
    @classmethod
    def _known(cls, value: str) -> str:
        return {"good": "good"}[value]  # a KeyError, which Pydantic lets through


def test_the_example_of_the_original(
    batch_server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The docstring example of ractogateway runs as it stands."""
    for name, value in batch_server.environ.items():
        monkeypatch.setenv(name, value)
    prompt = RactoPrompt(role="assistant", aim="answer briefly", constraints="", tone="", output_format="text")
    processor = OpenAIBatchProcessor(model="gpt-4o-mini", default_prompt=prompt)
    results = processor.submit_and_wait(
        [
            BatchItem(custom_id="q1", user_message="What is 2+2?"),
            BatchItem(custom_id="q2", user_message="Capital of France?"),
        ],
        poll_interval_s=0.01,
    )
    for r in results:
        print(r.custom_id, r.response.content if r.ok and r.response else r.error)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("q")] == ["q1", "q2"]
    assert all(r.ok for r in results)


SIGNATURES = {
    "submit_batch": "(self, items, *, prompt=None, completion_window='24h')",
    "poll_status": "(self, job_id)",
    "get_results": "(self, job_id)",
    "submit_and_wait": (
        "(self, items, *, prompt=None, completion_window='24h', poll_interval_s=60.0, max_wait_s=86400.0)"
    ),
}


def bare(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_methods_have_the_original_signatures(name: str) -> None:
    """Each method, and its awaited twin, takes the original's arguments with the original's defaults."""
    assert bare(getattr(OpenAIBatchProcessor, name)) == SIGNATURES[name]
    twin = getattr(OpenAIBatchProcessor, f"a{name}")
    assert bare(twin) == SIGNATURES[name]
    assert inspect.iscoroutinefunction(twin)


def test_the_constructor_takes_the_original_arguments() -> None:
    """Model first, the rest by name, with the original's defaults; what was added comes after."""
    assert OpenAIBatchProcessor.provider == "openai"
    assert bare(OpenAIBatchProcessor).startswith(
        "(model='gpt-4o-mini', *, api_key=None, base_url=None, default_prompt=None, "
    )


def test_the_four_methods(batch_server: LocalServer) -> None:
    """Submit, look, collect, one by one."""
    processor = made(batch_server)
    job = processor.submit_batch(items("a", "b"))
    assert (job.provider, job.status, job.request_count) == ("openai", "pending", 2)
    assert job.created_at > 1_700_000_000
    assert job.raw.id == job.job_id
    batch_server.wait_idle()
    seen = processor.poll_status(job.job_id)
    assert (seen.status, seen.request_count, seen.completed_count) == ("completed", 2, 2)
    assert [result.custom_id for result in processor.get_results(job.job_id)] == ["a", "b"]


def test_the_awaited_twins_in_several_loops(batch_server: LocalServer) -> None:
    """One processor serves one `asyncio.run` after another, and leaves no connection open behind any."""
    processor = made(batch_server)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        job = asyncio.run(processor.asubmit_batch(items("a", "b")))
        batch_server.wait_idle()
        assert asyncio.run(processor.apoll_status(job.job_id)).status == "completed"
        assert [result.custom_id for result in asyncio.run(processor.aget_results(job.job_id))] == ["a", "b"]
        results = asyncio.run(processor.asubmit_and_wait(items("c", "d"), poll_interval_s=0.01))
        assert [result.custom_id for result in results] == ["c", "d"]
        assert len(processor._loops) == 1
        del processor
        gc.collect()
    assert [str(one.message) for one in caught if "transport" in str(one.message)] == []


def test_the_awaited_twins_at_once(batch_server: LocalServer) -> None:
    """Several waits go on together in one loop, on one client."""
    processor = made(batch_server)

    async def run() -> list[str]:
        waits = (processor.asubmit_and_wait(items(name), poll_interval_s=0.01) for name in "abc")
        return [result.custom_id for results in await asyncio.gather(*waits) for result in results]

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_results_in_input_order(batch_server: LocalServer) -> None:
    """One result per item in the items' order, though the server shuffles them; a stranger's processor as well."""
    names = [f"item-{n * 7 % 50}" for n in range(50)]
    processor = made(batch_server)
    job = processor.submit_batch(items(*names))
    batch_server.wait_idle()
    for one in (processor, made(batch_server)):
        assert [result.custom_id for result in one.get_results(job.job_id)] == names


def test_without_its_input_file(batch_server: LocalServer) -> None:
    """Where nobody knows what was asked any more, what was answered is still given."""
    processor = made(batch_server)
    job = processor.submit_batch(items("a", "b"))
    batch_server.wait_idle()
    assert job.input_file_id is not None
    openai.OpenAI(api_key=batch_server.api_key, base_url=batch_server.base_url).files.delete(job.input_file_id)
    stranger = made(batch_server)
    assert {result.custom_id for result in stranger.get_results(job.job_id)} == {"a", "b"}
    assert {result.custom_id for result in asyncio.run(stranger.aget_results(job.job_id))} == {"a", "b"}


FAULTS: list[tuple[Faults, set[str]]] = [
    (Faults(fail_ids={"b": 400, "c": 500}), {"ok", "error"}),
    (Faults(fail_ids=dict.fromkeys("abcd", 400)), {"error"}),
    (Faults(drop_ids=frozenset("bd")), {"ok", "missing"}),
    (Faults(expire_at=0.5), {"ok", "expired"}),
    (Faults(ghost=0.5), {"ok", "error"}),
    (Faults(separators=True, empty_file_ids=True, upper_case_statuses=True, lying_counts=True), {"ok"}),
    (Faults(duplicate_lines=2, unknown_lines=2, empty_file_ids=True), {"ok"}),
    (Faults(bad_lines=1), {"ok", "missing"}),
    (Faults(cut_downloads=1), {"ok"}),
]


@pytest.mark.parametrize(("faults", "statuses"), FAULTS)
def test_every_item_has_its_result(batch_server: LocalServer, faults: Faults, statuses: set[str]) -> None:
    """Error file, all failed, dropped, expired, ghosts, U+2028, lying counts: one result each, with its reason."""
    batch_server.faults = faults
    results = made(batch_server).submit_and_wait(items(*"abcd"), poll_interval_s=0.01)
    assert [result.custom_id for result in results] == list("abcd")
    assert {result.status for result in results} == statuses
    for result in results:
        assert result.ok == (result.status == "ok")
        assert result.ok or (result.error and result.error_code)


def test_a_cancelled_batch_keeps_what_was_answered(batch_server: LocalServer) -> None:
    """A batch that somebody cancels ends the wait, and its items say so."""
    batch_server.faults = Faults(stuck_in="in_progress")
    processor = made(batch_server)
    job = processor.submit_batch(items("a", "b"))
    openai.OpenAI(api_key=batch_server.api_key, base_url=batch_server.base_url).batches.cancel(job.job_id)
    batch_server.wait_idle()
    results = processor.get_results(job.job_id)
    assert [result.custom_id for result in results] == ["a", "b"]
    assert {result.status for result in results} <= {"ok", "cancelled"}


def test_every_kind_of_answer() -> None:
    """Texts, JSON, fences, refusals, filters, cuts, tool calls, and bodies with nulls are told apart; none aborts."""
    call = {"id": "call_1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    prose = "Here:\n```python\nprint(1)\n```\nExplanation"

    def body(finish: str | None = "stop", **rest: Any) -> Answer:
        choice = {"message": rest.pop("message", {"content": "cut"}), "finish_reason": finish}
        return Answer(200, {"choices": [choice], **rest})

    answers: dict[str, Any] = {
        "plain": " yes\n",
        "json": '```json\n{"a": [1]}\n```',
        "prose": prose,
        "refusal": {"content": None, "refusal": "I will not."},
        "filter": body("content_filter"),
        "length": body("length"),
        "tools": body("tool_calls", message={"content": None, "tool_calls": [call]}),
        "badtool": body("tool_calls", message={"tool_calls": [{"function": {"name": "f", "arguments": "{"}}, 5]}),
        "usage": body(usage=usage),
        "nullusage": body(usage=None),
        "nullmessage": body(message=None),
        "nochoices": Answer(200, {"choices": []}),
        "failed": Answer(422, {"error": {"message": "Too hot.", "code": "too_hot"}}),
        "thinking": {"content": "x", "reasoning_content": "hm"},
    }
    with LocalServer(model=Scripted(answers)) as server:
        listed = made(server).submit_and_wait(items(*answers), poll_interval_s=0.01)
    results = {result.custom_id: result for result in listed}
    said = {name: result.response for name, result in results.items() if result.response is not None}
    assert {name: result.status for name, result in results.items() if result.status != "ok"} == {
        "refusal": "refusal",
        "filter": "content_filter",
        "length": "truncated",
        "nullmessage": "invalid_output",
        "nochoices": "error",
        "failed": "error",
    }
    assert (said["plain"].content, said["plain"].parsed) == ("yes", None)
    assert (said["json"].content, said["json"].parsed) == ('{"a": [1]}', {"a": [1]})
    assert said["prose"].content == prose
    assert (said["refusal"].content, said["refusal"].refusal, results["refusal"].ok) == (None, "I will not.", False)
    assert (said["filter"].finish_reason, results["filter"].ok) == (FinishReason.CONTENT_FILTER, False)
    assert (said["length"].finish_reason, results["length"].ok) == (FinishReason.LENGTH, True)
    assert said["tools"].finish_reason is FinishReason.TOOL_CALL
    assert [one.model_dump() for one in said["tools"].tool_calls] == [
        {"id": "call_1", "name": "add", "arguments": {"a": 1}}
    ]
    assert [(one.name, one.arguments) for one in said["badtool"].tool_calls] == [("f", {})]
    assert said["usage"].usage == {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "cached_tokens": 2,
        "reasoning_tokens": 3,
    }
    assert said["nullusage"].usage == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert (results["failed"].error, results["failed"].error_code) == ("Too hot.", "too_hot")
    assert said["thinking"].thinking == "hm"
    assert said["plain"].raw["choices"][0]["message"]["content"] == " yes\n"


def test_a_model_is_sent_and_comes_back_parsed() -> None:
    """A Pydantic output format is sent as strict `response_format`; the answer is parsed, or says why it is not."""
    model = Scripted({"a": '{"mood": "good"}', "b": "no JSON", "c": '{"mood": "bad"}'})
    prompt = RactoPrompt(role="r", aim="a", constraints="", tone="", output_format=Mood)
    with LocalServer(model=model) as server:
        processor = made(server, default_prompt=prompt)
        job = processor.submit_batch(items(*"abc"))
        server.wait_idle()
        collected = [one.get_results(job.job_id) for one in (processor, made(server, default_prompt=prompt))]
    for good, bad, broken in collected:
        assert good.response is not None
        assert Mood.model_validate(good.response.parsed) == Mood(mood="good")
        assert (bad.status, bad.error_code, bad.ok) == ("invalid_output", "invalid_output", False)
        assert bad.response is not None
        assert bad.response.content == "no JSON"
        assert broken.error == "KeyError: 'bad'"
    assert all(body["response_format"]["json_schema"]["strict"] for body in model.bodies)


@pytest.mark.parametrize("prompt", ["In a word.", PROMPT])
def test_a_call_brings_its_own_prompt(prompt: Any) -> None:
    """A prompt of the call goes before the processor's; a plain text is one."""
    model = Scripted({"a": "x"})
    with LocalServer(model=model) as server:
        made(server, default_prompt="Not this.").submit_and_wait(items("a"), prompt=prompt, poll_interval_s=0.01)
    assert model.bodies[0]["messages"][0] == {"role": "system", "content": str(prompt)}
