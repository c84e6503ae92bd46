"""Which provider an account is of."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.profile import PROFILES, Kind, Profile, kind_of

if TYPE_CHECKING:
    from ractobatch_dagster.store import Store

__all__ = ["connect", "profile_of"]


def profile_of(kind: Kind | None, base_url: str | None) -> Profile:
    """What kind of provider is meant, where the address may be left to the environment."""
    try:
        return PROFILES[kind or kind_of(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com")]
    except ValueError:  # the client is about to say so, without showing what may be a password
        return PROFILES["openai"]


def connect(account: Account, store: Callable[[], Store]) -> Provider:
    """The provider of an account.

    Args:
        account: Where it is, and which kind of provider.
        store: Gives the store, where input files wait that the provider does not keep itself.
    """
    if profile_of(account.kind, account.base_url).kind != "anthropic":
        return Provider(account)
    from ractobatch_dagster.provider.message_batches import AnthropicProvider

    return AnthropicProvider(replace(account, kind="anthropic"), store)
