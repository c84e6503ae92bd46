"""A small client of the webserver's GraphQL, and the waits built on it: the demo asks Dagster what the UI asks.

A wait is a generator: it yields in words what it waits for, and returns what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

__all__ = [
    "Check",
    "Client",
    "GraphQLError",
    "Landed",
    "Run",
    "Tick",
    "root_cause",
    "until_landed",
    "until_materialised",
    "until_ready",
]

_RUN = """runId status assetMaterializations { assetKey { path } partition
    metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue } } }"""


class GraphQLError(RuntimeError):
    """Dagster answered, but not with what was asked for: a query was refused, code does not load, a run failed."""


@dataclass(frozen=True)
class Landed:
    """One materialisation: of which asset and partition, and its metadata as far as it is text or a whole number."""

    asset: str
    partition: str | None
    metadata: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run, and what it has materialised so far."""

    id: str
    status: str
    landed: tuple[Landed, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it goes no further, well or badly."""
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Tick:
    """One look of the sensor: when (seconds since 1970), with what result, and what it said."""

    at: float
    status: str
    says: str


@dataclass(frozen=True)
class Check:
    """The last result of an asset check. `word` is `passed`, `failed`, `warned`, or the status of one that has none."""

    name: str
    word: str
    run_id: str


class Client:
    """Asks one webserver.

    Args:
        url: The webserver's address.
        location: The code location.
    """

    def __init__(self, url: str, location: str = "example") -> None:
        self.url = url
        self._selector = {"repositoryName": "__repository__", "repositoryLocationName": location}
        self._opener = build_opener(ProxyHandler({}))  # it is on this machine, whatever proxy there is

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The `data` of one query.

        Raises:
            OSError: Nobody answers there, or not in time.
            GraphQLError: The query was refused.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=60) as response:
                answer = json.load(response)
        except HTTPError as error:
            answer = {"errors": [{"message": error.read().decode(errors="replace")[:500]}]}
        if answer.get("errors"):
            raise GraphQLError(answer["errors"][0]["message"])
        data: dict[str, Any] = answer["data"]
        return data

    def ready(self) -> bool:
        """Whether the code is loaded and every daemon is at work; `False` while nobody answers yet.

        Raises:
            GraphQLError: The code cannot be loaded; the message is the error of the code.
        """
        query = """{ workspaceOrError { ... on Workspace { locationEntries {
            locationOrLoadError { __typename ... on PythonError { message causes { message } } } } } }
            instance { daemonHealth { allDaemonStatuses { required healthy } } } }"""
        try:
            data = self.ask(query)
        except OSError:
            return False
        entries = [entry["locationOrLoadError"] for entry in data["workspaceOrError"]["locationEntries"]]
        for entry in entries:
            if entry and entry["__typename"] == "PythonError":
                raise GraphQLError(root_cause(entry))
        daemons = data["instance"]["daemonHealth"]["allDaemonStatuses"]
        return bool(entries) and all(entries) and all(one["healthy"] for one in daemons if one["required"])

    def launch(self, assets: Sequence[str], partitions: Sequence[str] = ()) -> str:
        """Materialise these assets in one run, over all partitions from the first to the last given; its id.

        Raises:
            GraphQLError: Dagster does not take the run.
        """
        query = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
        tags = {}
        if len(partitions) == 1:
            tags = {"dagster/partition": partitions[0]}
        elif partitions:
            tags = {
                "dagster/asset_partition_range_start": partitions[0],
                "dagster/asset_partition_range_end": partitions[-1],
            }
        selection = [{"path": asset.split("/")} for asset in assets]
        params = {
            "selector": {**self._selector, "jobName": "__ASSET_JOB", "assetSelection": selection},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
            "runConfigData": {},
        }
        answer = self.ask(query, params=params)["launchRun"]
        if "run" not in answer:
            raise GraphQLError(answer.get("message") or answer["__typename"])
        return str(answer["run"]["runId"])

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            GraphQLError: There is no such run.
        """
        query = "query ($id: ID!) { runOrError(runId: $id) { __typename ... on Run {" + _RUN + "} } }"
        answer = self.ask(query, id=run_id)["runOrError"]
        if answer["__typename"] != "Run":
            raise GraphQLError(f"There is no run {run_id}.")
        return _run(answer)

    def tagged(self, key: str, value: str) -> list[Run]:
        """The runs with this tag, the newest first."""
        query = (
            "query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {" + _RUN + "} } } }"
        )
        answer = self.ask(query, filter={"tags": [{"key": key, "value": value}]})["runsOrError"]
        return [_run(one) for one in answer["results"]]

    def why(self, run_id: str) -> str:
        """Why a run failed: the message of the error at the bottom of it."""
        query = """query ($id: ID!, $after: String) { logsForRun(runId: $id, afterCursor: $after) {
            ... on EventConnection { cursor hasMore events {
            ... on ExecutionStepFailureEvent { error { message causes { message } } }
            ... on RunFailureEvent { message error { message causes { message } } } } } } }"""
        events: list[dict[str, Any]] = []
        page: dict[str, Any] = {"hasMore": True, "cursor": None}
        while page.get("hasMore"):
            page = self.ask(query, id=run_id, after=page["cursor"])["logsForRun"]
            events += [event for event in page.get("events", []) if event]
        causes = [root_cause(event["error"]) for event in events if event.get("error")]
        return next(iter(causes + [event["message"] for event in events if event.get("message")]), "no reason is known")

    def last_tick(self, sensor: str) -> Tick | None:
        """The sensor's newest finished tick, if it has one."""
        query = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
            ... on Sensor { sensorState { ticks(limit: 3) {
            timestamp status skipReason error { message causes { message } } } } } } }"""
        answer = self.ask(query, selector={**self._selector, "sensorName": sensor})["sensorOrError"]
        for tick in answer["sensorState"]["ticks"]:
            if tick["status"] != "STARTED":
                says = root_cause(tick["error"]) if tick["error"] else tick["skipReason"] or ""
                return Tick(float(tick["timestamp"]), tick["status"], says)
        return None

    def checks(self, asset: str) -> list[Check]:
        """The checks of an asset, each with its last result."""
        query = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            assetChecksOrError { ... on AssetChecks { checks { name
            executionForLatestMaterialization { runId status evaluation { severity } } } } } } } }"""
        answer = self.ask(query, key={"path": asset.split("/")})["assetNodeOrError"]
        return [_check(one) for one in answer["assetChecksOrError"].get("checks", [])]


def until_ready(client: Client) -> Generator[str, None, None]:
    """Wait until the webserver answers, the code is loaded and every daemon is at work."""
    while not client.ready():
        yield "starting dagster-webserver and dagster-daemon"


def until_materialised(
    client: Client, assets: Sequence[str], partitions: Sequence[str] = ()
) -> Generator[str, None, Run]:
    """Materialise these assets in one run and wait for its end.

    Raises:
        GraphQLError: The run was not taken, or it failed.
    """
    run_id = client.launch(assets, partitions)
    while not _succeeded(client, run := client.run(run_id)):
        yield f"{' and '.join(assets)}: {_shown(run)}"
    return run


def until_landed(
    client: Client, asset: str, wanted: Iterable[tuple[str, str | None]], *, tag: str, sensor: str
) -> Generator[str, None, list[Run]]:
    """Wait until the sensor's runs have materialised `asset` for all that was sent; those runs.

    Args:
        client: Whom to ask.
        asset: The table.
        wanted: The submissions that were sent, and the partitions in each.
        tag: The run tag that carries the submission.
        sensor: The sensor, whose last words are told while there is no run.

    Raises:
        GraphQLError: One of the runs failed.
    """
    missing = set(wanted)
    submissions = sorted({submission for submission, _ in missing})
    while True:
        runs = {submission: client.tagged(tag, submission) for submission in submissions}
        ended = [(submission, run) for submission in runs for run in runs[submission] if _succeeded(client, run)]
        missing -= {
            (submission, one.partition) for submission, run in ended for one in run.landed if one.asset == asset
        }
        if not missing:
            return [run for _, run in ended]
        going = [run for submission in runs for run in runs[submission] if not run.finished]
        tick = None if going else client.last_tick(sensor)
        yield f"{asset}: {_shown(going[0])}" if going else f"sensor: {tick.says if tick else 'not yet heard of'}"


def root_cause(error: dict[str, Any]) -> str:
    """The message of the innermost cause, which is where the user's code or ours says what is wrong."""
    chain = [error, *error.get("causes", [])]
    return str(chain[-1]["message"]).strip()


def _succeeded(client: Client, run: Run) -> bool:
    """Whether the run has ended well; `False` while it goes on."""
    if run.finished and run.status != "SUCCESS":
        raise GraphQLError(f"Run {run.id[:8]} ended as {run.status}: {client.why(run.id)}")
    return run.finished


def _shown(run: Run) -> str:
    doing = {"STARTED": "is at work", "QUEUED": "is queued"}.get(run.status, "is starting")
    return f"run {run.id[:8]} {doing}"


def _run(answer: dict[str, Any]) -> Run:
    landed = []
    for event in answer["assetMaterializations"]:
        entries = {one["label"]: one.get("text", one.get("intValue")) for one in event["metadataEntries"]}
        metadata = {label: value for label, value in entries.items() if value is not None}
        landed.append(Landed("/".join(event["assetKey"]["path"]), event["partition"], metadata))
    return Run(answer["runId"], answer["status"], tuple(landed))


def _check(answer: dict[str, Any]) -> Check:
    execution = answer["executionForLatestMaterialization"]
    if not execution:
        return Check(answer["name"], "missing", "")
    evaluation = execution["evaluation"] or {}
    word = {"SUCCEEDED": "passed", "FAILED": "failed"}.get(execution["status"], execution["status"].lower())
    if word == "failed" and evaluation.get("severity") == "WARN":
        word = "warned"
    return Check(answer["name"], word, execution["runId"])
