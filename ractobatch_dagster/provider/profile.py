"""What differs from provider to provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from ractobatch_dagster.models import BatchStatus

__all__ = ["PROFILES", "Kind", "Profile", "kind_of"]

Kind = Literal["openai", "azure", "compatible", "local", "anthropic"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of provider.

    Attributes:
        max_requests: How many requests one input file takes.
        max_bytes: How many bytes; below the documented limit, since "200 MB" does not say which MB, and gateways
            in front of a server have limits of their own.
        batches_per_hour: How many batches may be created in an hour, where that is limited.
        supports_metadata: Whether a batch keeps the metadata it was created with, or at least our key.
        list_lag: For how many seconds its list of batches may not show a new one yet; a guess on the safe side.
        sends_to_create: Whether creating a batch sends its requests, as there are no input files.
        dashboard: Where a person sees batches, if anywhere.
        endpoints: What takes the place of the endpoints that it does not have; `None` where it has them by their names.
        windows: The completion windows that it takes; `None` takes any, and the server says what it does not like.
        statuses: Its own words for statuses, in small letters, where they are none of the usual ones.
        environ: How the names of the environment variables begin that say the key and the address.
    """

    kind: Kind
    max_requests: int
    max_bytes: int
    batches_per_hour: int | None = None
    supports_metadata: bool = True
    list_lag: float = 120.0
    sends_to_create: bool = False
    dashboard: str | None = None
    endpoints: Mapping[str, str] | None = None
    windows: tuple[str, ...] | None = None
    statuses: Mapping[str, BatchStatus] = field(default_factory=dict)
    environ: str = "OPENAI"


PROFILES: dict[Kind, Profile] = {
    # OpenAI, Batch API guide: 50,000 requests and 200 MB, and 2,000 batches an hour
    "openai": Profile("openai", 50_000, 180_000_000, 2_000, dashboard="https://platform.openai.com/batches"),
    # Azure OpenAI, "Global batch limits": 100,000 requests and 200 MB
    "azure": Profile("azure", 100_000, 180_000_000),
    "compatible": Profile("compatible", 50_000, 90_000_000),
    "local": Profile("local", 50_000, 180_000_000, list_lag=5.0),
    # Anthropic, "Batch processing": 100,000 requests or 256 MB. There is no input file to be deleted so that a late
    # create fails: only time shows that there was none, and less is sent in less time.
    "anthropic": Profile(
        "anthropic",
        100_000,
        90_000_000,
        list_lag=600.0,
        sends_to_create=True,
        dashboard="https://platform.claude.com/workspaces/default/batches",
        endpoints={"/v1/chat/completions": "/v1/messages"},
        environ="ANTHROPIC",
    ),
}

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def kind_of(base_url: str) -> Kind:
    """What kind of provider answers at this address."""
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return "openai"
    if host == "api.anthropic.com":
        return "anthropic"
    return "azure" if host.endswith(_AZURE) else "compatible"
