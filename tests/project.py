"""A Dagster project for tests: a real instance, real runs in this process, real sensor ticks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ractobatch_dagster import OpenAIBatchResource, build_batch_sensor
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.state import SubmissionState

RESOURCE = "openai_batch"


class Project:
    """Definitions on an instance of their own, against a local batch server."""

    def __init__(self, server: LocalServer, folder: Path, assets: Sequence[Any], **resource: Any) -> None:
        self.server = server
        self.resource = OpenAIBatchResource(
            **{"api_key": server.api_key, "base_url": server.base_url, "root": str(folder / "store"), **resource}
        )
        folder.mkdir(exist_ok=True)
        self.instance = dg.DagsterInstance.local_temp(str(folder))
        self.defs = dg.Definitions(
            assets=assets, sensors=[build_batch_sensor(RESOURCE)], resources={RESOURCE: self.resource}
        )

    def run(
        self, *assets: str, partition: str | None = None, span: tuple[str, str] | None = None, **tags: str
    ) -> dg.ExecuteInProcessResult:
        """One run of these assets, of one partition or of a span of them."""
        span_tags = (
            {"dagster/asset_partition_range_start": span[0], "dagster/asset_partition_range_end": span[1]}
            if span
            else {}
        )
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name.split("/")) for name in assets],
            partition_key=partition,
            tags={**span_tags, **tags},
            raise_on_error=False,
        )

    def tick(self) -> dg.SensorResult | Any:
        """One tick of the sensor."""
        with dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            definitions=self.defs,
            resources={RESOURCE: self.resource},
        ) as context:
            return self.defs.resolve_sensor_def(f"{RESOURCE}_sensor").evaluate_tick(context)

    def requests(self, seconds: float = 20.0) -> list[dg.RunRequest]:
        """Tick until the sensor asks for runs."""
        end = time.monotonic() + seconds
        while True:
            ticked = self.tick()
            if ticked.run_requests:
                return list(ticked.run_requests)
            assert time.monotonic() < end, f"nothing was asked for: {ticked.skip_message}"
            time.sleep(0.02)

    def launch(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Do what the daemon does with a run request."""
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=list(request.asset_selection or ()),
            partition_key=request.partition_key,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            raise_on_error=False,
        )

    def land(self) -> None:
        """Tick and launch until nothing is open."""
        end = time.monotonic() + 30
        while not (ticked := self.tick()).skip_message or "No submission" not in ticked.skip_message:
            for request in ticked.run_requests or ():
                assert self.launch(request).success
            assert time.monotonic() < end, ticked.skip_message
            time.sleep(0.02)

    def load(self, asset: str, *, partition: str | None = None, kind: Any = None) -> Any:
        """A table as a downstream would load it."""
        return self.defs.load_asset_value(
            dg.AssetKey(asset.split("/")), python_type=kind, instance=self.instance, partition_key=partition
        )

    def metadata(self, asset: str, partition: str | None = None) -> dict[str, Any]:
        """The metadata of the newest materialisation."""
        records = self.instance.fetch_materializations(dg.AssetKey(asset.split("/")), limit=100).records
        newest = next(record for record in records if record.partition_key == partition)
        assert newest.asset_materialization is not None
        return {name: value.value for name, value in newest.asset_materialization.metadata.items()}

    def submissions(self, asset: str) -> list[SubmissionState]:
        """Every submission of one table, open or not, newest last."""
        table = TableFiles(self.resource.store, asset)
        names = self.resource.store.folders(f"submissions/{asset.replace('/', '%2F')}")
        return [table.submission(name).state() for name in names if name != "log"]


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed, the whole chain of causes."""
    texts = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                texts.append(error.message)
                error = error.cause
    return "\n".join(texts)
