"""How the assets of a batch asset are called and described, for those who have a rule for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dagster as dg

__all__ = ["AssetRole", "BatchAssetData", "BatchAssetTranslator"]

AssetRole = Literal["submission", "table"]


@dataclass(frozen=True, slots=True)
class BatchAssetData:
    """What a translator knows of an asset.

    Attributes:
        role: Whether it is the submission or the table.
        model: The model that is asked.
        default_spec: Key, group, owners, tags, kinds, description and metadata as `batch_asset` would have them.
        table_key: The key of the table, already translated, where it is the submission.
    """

    role: AssetRole
    model: str
    default_spec: dg.AssetSpec
    table_key: dg.AssetKey | None = None


class BatchAssetTranslator:
    """Says what the assets of a batch asset are called and how they are described. Override its one method.

    Example:
        ```python
        class Ours(BatchAssetTranslator):
            def get_asset_spec(self, data):
                return data.default_spec.replace_attributes(group_name="llm", owners=["team:data"])
        ```
    """

    def get_asset_spec(self, data: BatchAssetData) -> dg.AssetSpec:
        """The asset's key, group, owners, tags, kinds, description and metadata; nothing else of the spec counts.

        The key is also the name of the table's corner of the store: another one begins anew. A rule that leaves the
        submission's key alone, or gives it the table's, leaves it to follow the table's.
        """
        return data.default_spec
