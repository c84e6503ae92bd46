"""The checks of a result table. They read what its run recorded, not the table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from ractobatch_dagster.chosen_checks import BatchCheck, Recorded, chosen, summed
from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.spec import BatchSpec

__all__ = ["ON_TIME", "on_time", "table_checks"]

_ROWS = "every_row_is_there"
_USABLE = "answers_are_usable"
ON_TIME = "batches_are_on_time"
_SHOWN = 5


def table_checks(spec: BatchSpec, max_error_rate: float, wanted: Sequence[BatchCheck] = ()) -> dg.AssetChecksDefinition:
    """The checks of a table: every row that was submitted is there, not too many are without a usable answer, and no
    batch is stuck or uncollected; and those that are wanted beside them. The third one is also evaluated by the sensor,
    as soon as something changes."""
    specs = [
        dg.AssetCheckSpec(_ROWS, asset=spec.asset, description="Every row that was submitted is in the table, once."),
        dg.AssetCheckSpec(
            _USABLE,
            asset=spec.asset,
            description=f"At most {max_error_rate:.0%} of the rows are without a usable answer.",
        ),
        dg.AssetCheckSpec(
            ON_TIME, asset=spec.asset, description="No open batch is stuck, uncollected or about to lose its answers."
        ),
    ]
    specs += chosen(wanted, spec, [one.name for one in specs])

    @dg.multi_asset_check(specs=specs, name=f"{spec.op_name}_checks", required_resource_keys={spec.resource_key})
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        landed, before = _recorded(context, spec.asset)
        total = summed(landed, "rows_submitted")
        written = summed(landed, "dagster/row_count", "dagster/partition_row_count", "rows")
        yield dg.AssetCheckResult(
            check_name=_ROWS,
            asset_key=spec.asset,
            passed=written == total,
            metadata={"rows_submitted": total, "rows_in_table": written},
        )
        counts = {word: summed(landed, f"status_{word}") for word in ROW_STATUSES if word not in ("ok", "skipped")}
        unusable = sum(counts.values())
        rate = unusable / total if total else 0.0
        yield dg.AssetCheckResult(
            check_name=_USABLE,
            asset_key=spec.asset,
            passed=rate <= max_error_rate,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "rows": total,
                "without_usable_answer": unusable,
                "error_rate": rate,
                **{word: count for word, count in counts.items() if count},
            },
        )

        for check in wanted:
            passed, shown, said = check.result(landed, before)
            yield dg.AssetCheckResult(
                check_name=check.name,
                asset_key=spec.asset,
                passed=passed,
                severity=check.severity,
                metadata=shown,
                description=said,
            )

        resource = getattr(context.resources, spec.resource_key)
        yield dg.AssetCheckResult(check_name=ON_TIME, asset_key=spec.asset, **on_time(_alarms(spec, resource)))

    return checks


def on_time(alarms: Sequence[str]) -> dict[str, Any]:
    """The result of the check `batches_are_on_time`."""
    if not alarms:
        described = "Nothing is late."
        return {
            "passed": True,
            "severity": dg.AssetCheckSeverity.WARN,
            "description": described,
            "metadata": {"late": 0},
        }
    shown = "\n\n".join(alarms[:_SHOWN]) + (f"\n\nand {len(alarms) - _SHOWN} more" if len(alarms) > _SHOWN else "")
    late = {"late": len(alarms)}
    return {"passed": False, "severity": dg.AssetCheckSeverity.WARN, "description": shown, "metadata": late}


def _alarms(spec: BatchSpec, resource: OpenAIBatchResource) -> list[str]:
    """What is wrong with the table's open submissions, as far as the store tells."""
    from ractobatch_dagster.submission.alarms import alarms

    table = spec.table(resource)
    version = table.log.load()
    return [
        text
        for id_ in (version.state.open if version else ())
        for text in alarms(table.submission(id_).state(), resource.now(), resource.patience)
    ]


def _recorded(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey) -> tuple[Recorded, Recorded]:
    """The metadata of what this run materialised, or where the check runs by itself of the newest materialisation; and
    of what the run before that did."""
    found = context.instance.fetch_materializations(asset, limit=1_000).records
    mine = [record for record in found if record.run_id == context.run.run_id] or found[:1]
    ids = {record.run_id for record in mine}
    others = [record for record in found if record.run_id not in ids]
    before = [record for record in others if record.run_id == others[0].run_id]
    return [_metadata(record) for record in mine], [_metadata(record) for record in before]


def _metadata(record: Any) -> Mapping[str, Any]:
    event = record.asset_materialization
    return event.metadata if event is not None else {}
