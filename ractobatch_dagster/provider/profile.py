"""What differs from provider to provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["PROFILES", "Kind", "Profile", "kind_of"]

Kind = Literal["openai", "azure", "compatible", "local"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of provider.

    Attributes:
        max_requests: How many requests one input file takes.
        max_bytes: How many bytes; below the documented limit, since "200 MB" does not say which MB, and gateways
            in front of a server have limits of their own.
        batches_per_hour: How many batches may be created in an hour, where that is limited.
        supports_metadata: Whether a batch keeps the metadata it was created with.
        list_lag: For how many seconds its list of batches may not show a new one yet; a guess on the safe side.
        dashboard: Where a person sees batches, if anywhere.
    """

    kind: Kind
    max_requests: int
    max_bytes: int
    batches_per_hour: int | None = None
    supports_metadata: bool = True
    list_lag: float = 120.0
    dashboard: str | None = None


PROFILES: dict[Kind, Profile] = {
    # OpenAI, Batch API guide: 50,000 requests and 200 MB, and 2,000 batches an hour
    "openai": Profile("openai", 50_000, 180_000_000, 2_000, dashboard="https://platform.openai.com/batches"),
    # Azure OpenAI, "Global batch limits": 100,000 requests and 200 MB
    "azure": Profile("azure", 100_000, 180_000_000),
    "compatible": Profile("compatible", 50_000, 90_000_000),
    "local": Profile("local", 50_000, 180_000_000, list_lag=5.0),
}

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def kind_of(base_url: str) -> Kind:
    """What kind of provider answers at this address."""
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return "openai"
    return "azure" if host.endswith(_AZURE) else "compatible"
