"""The checks of a result table. They read what its run recorded, not the table."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.spec import BatchSpec

__all__ = ["table_checks"]

_ROWS = "every_row_is_there"
_USABLE = "answers_are_usable"


def table_checks(spec: BatchSpec, max_error_rate: float) -> dg.AssetChecksDefinition:
    """Two checks: every row that was submitted is in the table, and not too many are without a usable answer."""
    specs = [
        dg.AssetCheckSpec(_ROWS, asset=spec.asset, description="Every row that was submitted is in the table, once."),
        dg.AssetCheckSpec(
            _USABLE,
            asset=spec.asset,
            description=f"At most {max_error_rate:.0%} of the rows are without a usable answer.",
        ),
    ]

    @dg.multi_asset_check(specs=specs, name=f"{spec.op_name}_checks")
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        landed = _recorded(context, spec.asset)
        total = _sum(landed, "rows_submitted")
        written = _sum(landed, "dagster/row_count", "dagster/partition_row_count", "rows")
        yield dg.AssetCheckResult(
            check_name=_ROWS,
            asset_key=spec.asset,
            passed=written == total,
            metadata={"rows_submitted": total, "rows_in_table": written},
        )
        counts = {word: _sum(landed, f"status_{word}") for word in ROW_STATUSES if word not in ("ok", "skipped")}
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

    return checks


def _recorded(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey) -> list[Mapping[str, Any]]:
    """The metadata of what this run materialised; where the check runs by itself, of the newest materialisation."""
    found = context.instance.fetch_materializations(asset, limit=1_000).records
    mine = [record for record in found if record.run_id == context.run.run_id] or found[:1]
    return [event.metadata for record in mine if (event := record.asset_materialization) is not None]


def _sum(landed: list[Mapping[str, Any]], *names: str) -> int:
    """The sum over all partitions of the first of these numbers that each has."""
    total = 0
    for metadata in landed:
        value = next((metadata[name].value for name in names if name in metadata), 0)
        total += int(value)
    return total
