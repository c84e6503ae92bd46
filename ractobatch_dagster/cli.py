"""The command `ractobatch`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ractobatch_dagster._version import __version__
from ractobatch_dagster.commands import add_commands
from ractobatch_dagster.errors import ConfigurationError, RactobatchError

if TYPE_CHECKING:
    from ractobatch_dagster.local import Model, ServerAddress

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; `None` takes those of the process.

    Returns:
        The exit status: 0; 1 where it failed, or where something needs a person, and said what. (2 is argparse's own,
        for arguments that are none.)
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
    except RactobatchError as error:
        print(f"ractobatch: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ractobatch", description="LLM work at scale inside Dagster.")
    parser.add_argument("--version", action="version", version=f"ractobatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_commands(commands)
    _add_serve(commands.add_parser("serve", help="run a batch server on this machine", description=_SERVE))
    return parser


_SERVE = """Run a server that speaks OpenAI's Files and Batches API. Without a key and without a network it
answers from built-in rules; with --upstream it gives any OpenAI-compatible chat server a batch API."""


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--folder", type=Path, default=Path(".ractobatch"), help="where its state is kept (default: %(default)s)")
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="the port to listen on (default: the last one, or a free one)")
    add("--seconds", type=float, default=5.0, help="how long a batch takes at least (default: %(default)s)")
    add("--api-key", help="what clients must send (default: the folder's key, made on the first start)")
    add("--model", choices=["rules", "llm"], default="rules", help="what answers (default: %(default)s)")
    add("--upstream", metavar="URL", help="hand each request to this OpenAI-compatible server instead")
    add("--upstream-key", metavar="KEY", help="its key (default: RACTOBATCH_UPSTREAM_KEY)")
    add("--upstream-model", metavar="NAME", help="ask it for this model, whatever the request says")
    add("--concurrency", type=int, default=8, help="how many requests it is sent at once (default: %(default)s)")
    add("--idle-exit", type=float, metavar="SECONDS", help="end after this long without use")
    add("--quiet", action="store_true", help="do not show the address and the key")
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    model = _model(arguments)
    _need_extra()
    from ractobatch_dagster.local.server import serve

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(
            arguments.folder,
            model=model,
            seconds=arguments.seconds,
            api_key=arguments.api_key,
            host=arguments.host,
            port=arguments.port,
            idle_exit=arguments.idle_exit,
            announce=(lambda address: None) if arguments.quiet else _announce,
        )
    except KeyboardInterrupt:
        return


def _need_extra() -> None:
    """Fail with a helpful message where the extra `local` is not installed."""
    from ractobatch_dagster import local

    _ = local.LocalServer


def _model(arguments: argparse.Namespace) -> Model:
    from ractobatch_dagster import local

    if arguments.upstream:
        key = arguments.upstream_key or os.environ.get("RACTOBATCH_UPSTREAM_KEY")
        return local.UpstreamModel(
            arguments.upstream, key, concurrency=arguments.concurrency, model=arguments.upstream_model
        )
    if arguments.model == "rules":
        return local.RuleModel()
    try:
        llm = import_module("ractobatch_dagster.local.llm")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The built-in language model needs {error.name!r}: pip install 'ractobatch-dagster[local-llm]'"
        ) from error
    model: Model = llm.LlamaModel()
    return model


def _announce(address: ServerAddress) -> None:
    lines = [
        f"The batch server listens on {address.base_url}; its key is {address.api_key}. Lead clients to it with",
        f"  export OPENAI_BASE_URL={address.base_url}",
        f"  export OPENAI_API_KEY={address.api_key}",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
