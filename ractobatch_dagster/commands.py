"""The commands of `ractobatch` that look at a root, or try a prompt, as the terminal takes and shows them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import ConfigurationError, RactobatchError

if TYPE_CHECKING:
    from ractobatch_dagster.pair import BatchAsset
    from ractobatch_dagster.provider.client import Provider
    from ractobatch_dagster.store import Store
    from ractobatch_dagster.submission.plan import Progress
    from ractobatch_dagster.tending import Finding

__all__ = ["add_commands"]

Arguments = argparse.Namespace


def add_commands(commands: Any) -> None:
    """Add them to the parser's subparsers."""

    def add(name: str, run: Callable[[Arguments], None], summary: str, more: str = "") -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}".strip()
        )
        parser.set_defaults(run=run)
        return parser

    _root(add("status", _status, "show what is open, and what is wrong", _STATUS))
    listing = _root(add("submissions", _submissions, "list submissions", "Those that are open, unless --all is given."))
    listing.add_argument("--asset", metavar="KEY", help="those of this table")
    listing.add_argument("--all", action="store_true", help="also those that have landed or were superseded")
    show = _root(add("show", _show, "show one submission", "Its batches, their files, and what is wrong with it."))
    show.add_argument("which", metavar="ID", help="a submission's id, or a table's key for its newest one")
    watching = _root(add("watch", _watch, "follow what is open until it has landed", _WATCH))
    watching.add_argument("--asset", metavar="KEY", help="the submissions of this table")
    watching.add_argument("--submission", metavar="ID", help="this submission")
    watching.add_argument("--seconds", type=float, default=5.0, help="between two looks (default: %(default)s)")
    cancelling = _provider(_root(add("cancel", _cancel, "cancel what is open", _CANCEL), as_json=False))
    for name, meta, text in (
        ("--asset", "KEY", "the submissions of this table"),
        ("--partition", "KEY", "the submission of this partition"),
        ("--submission", "ID", "this submission"),
    ):
        cancelling.add_argument(name, metavar=meta, help=text)
    cancelling.add_argument("--all", action="store_true", help="everything that is open")
    cancelling.add_argument("--abandon", action="store_true", help=_ABANDON)
    _provider(_root(add("doctor", _doctor, "check that answers can come", _DOCTOR)))
    _provider(_root(add("reconcile", _reconcile, "compare the provider's batches with the store", _RECONCILE)))
    collecting = _provider(_root(add("gc", _gc, "delete what is no longer needed", _GC)))
    collecting.add_argument("--days", type=float, default=30.0, help="how old it must be (default: %(default)s)")
    collecting.add_argument("--store-only", action="store_true", help="leave the provider's files alone")
    collecting.add_argument("--yes", action="store_true", help="delete; otherwise it is only said what would be")
    trying = _asset(_provider(_root(add("preview", _preview, "answer a few rows of a batch asset at once", _PREVIEW))))
    trying.add_argument("--rows", type=int, default=5, help="how many (default: %(default)s)")
    trying.add_argument("--seed", type=int, help="draw them at random, with this seed, instead of the first")
    counting = _asset(_provider(_root(add("estimate", _estimate, "count what a batch asset would ask", _ESTIMATE))))
    counting.add_argument("--inputs", metavar="FOLDER", help="write the input files there, as they would be sent")


_STATUS = """Ends with 1 if something needs a person: a batch that is stuck, answers that nobody collects, a table that
no sensor looks after."""

_WATCH = """A bar for each open submission, as the sensor and the runs write it down; Ctrl-C stops looking. With --json
a line for each change."""

_CANCEL = """Nothing more of the open submissions is created, their batches are cancelled at the provider, and what was
answered lands in the table as usual, its other rows with the status cancelled."""

_ABANDON = "also give up what was cancelled before and has not ended, or is unknown"

_DOCTOR = """Looks at the store, the clock, the key, the provider's queue, the sensor, and what is open. Ends with 1 if
something is not well."""

_RECONCILE = """Finds batches that carry our key and that no submission knows, which cost money, and batches of ours
that the provider no longer has. Ends with 1 if there are any."""

_GC = """In the store: submissions that were superseded or never opened. At the provider: the files of submissions
that have landed, whose answers are in the store. Nothing that is open or that a table stands for is touched. Of the
ledgers of budgets and queues the last hundred versions stay."""

_PREVIEW = """Calls its function with the frames given, sends a few of the rows to the endpoint that answers at once, at
its full price, and shows the answers and what all rows would cost at the batch rate. Nothing is stored."""


_ESTIMATE = """Calls its function with the frames given, and says how many requests, batches and tokens its rows make
and what they cost at the batch rate. Answers that the root has already are not counted. Nothing is sent, and no key is
needed."""


def _asset(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add = parser.add_argument
    add("asset", metavar="MODULE:NAME", help="where the batch asset is, such as my_project.assets:labels")
    add("--frame", action="append", default=[], metavar="NAME=FILE", help="what its function takes: Parquet or CSV")
    add("--partition", metavar="KEY", help="the partition that the function's context names")
    return parser


def _root(parser: argparse.ArgumentParser, *, as_json: bool = True) -> argparse.ArgumentParser:
    add = parser.add_argument
    add("--root", default=os.environ.get("RACTOBATCH_ROOT"), help="the resource's root (default: RACTOBATCH_ROOT)")
    add("--deployment", default="", help="the resource's deployment, where it has one")
    add("--store-option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the store; repeatable")
    if as_json:
        add("--json", action="store_true", help="for machines")
    return parser


def _provider(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add = parser.add_argument
    add(
        "--base-url",
        help="the address (default: OPENAI_BASE_URL, or OpenAI); the key is OPENAI_API_KEY, or Anthropic's own",
    )
    add(
        "--provider",
        choices=["openai", "azure", "compatible", "anthropic", "local"],
        help="what kind of provider it is",
    )
    return parser


def _store(arguments: Arguments) -> Store:
    from ractobatch_dagster.store import deployed

    if not arguments.root:
        raise ConfigurationError("Give the resource's root: --root, or the environment variable RACTOBATCH_ROOT.")
    options = dict(option.partition("=")[::2] for option in arguments.store_option)
    return deployed(arguments.root, arguments.deployment, options)


def _connect(arguments: Arguments, store: Store | None) -> Provider:
    from ractobatch_dagster.operating import account
    from ractobatch_dagster.provider.connecting import connect

    return connect(account(store, arguments.base_url, arguments.provider), lambda: store or _store(arguments))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _say_json(data: Any) -> None:
    _say(json.dumps(data, ensure_ascii=False, default=str))


def _fail_if(problems: int) -> None:
    if problems:
        raise RactobatchError(f"{problems} of these need a person; what is wrong is said above.")


def _told(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Show findings as they come; an error where one of them is not well."""
    wrong = told = 0
    for finding in findings:
        wrong, told = wrong + (not finding.well), told + 1
        if as_json:
            _say_json(asdict(finding))
        else:
            _say(str(finding))
    if not told and not as_json:
        _say("There is nothing to do.")
    _fail_if(wrong)


def _status(arguments: Arguments) -> None:
    from ractobatch_dagster.operating import status

    lines: list[str] = []
    problems = status(_store(arguments), lines.append if arguments.json else _say)
    if arguments.json:
        _say_json({"problems": problems, "lines": lines})
    _fail_if(problems)


def _submissions(arguments: Arguments) -> None:
    from ractobatch_dagster.inspecting import submissions

    found = list(submissions(_store(arguments), asset=arguments.asset, everything=arguments.all))
    if arguments.json:
        _say_json([one.as_data() for one in found])
    else:
        _say("\n".join(map(str, found)) or ("There is none." if arguments.all else _NONE))
    _fail_if(sum(one.state is None for one in found))


_NONE = "Nothing is open."


def _show(arguments: Arguments) -> None:
    from ractobatch_dagster.inspecting import described, one_submission, shown
    from ractobatch_dagster.store import StoreClock

    store = _store(arguments)
    data = shown(one_submission(store, arguments.which), StoreClock(store)())
    if arguments.json:
        _say_json(data)
    else:
        _say(described(data))
    _fail_if(len(data["alarms"]))


def _watch(arguments: Arguments) -> None:
    from tqdm import tqdm

    from ractobatch_dagster.inspecting import watch

    bars: dict[str, Any] = {}

    def tell(name: str, now: Progress) -> None:
        if arguments.json:
            _say_json({"submission": name, "answered": now.answered, "requests": now.requests, "progress": str(now)})
            return
        bar = bars.setdefault(name, tqdm(total=now.requests, desc=name, unit="request", position=len(bars)))
        bar.total, bar.n = now.requests, now.answered
        bar.set_postfix_str("collected" if now.collected else f"{now.ended} of {now.batches} batches ended")

    try:
        followed = watch(
            _store(arguments),
            tell,
            lambda: time.sleep(arguments.seconds),
            asset=arguments.asset,
            submission=arguments.submission,
        )
    except KeyboardInterrupt:
        return
    finally:
        for bar in bars.values():
            bar.close()
    if not followed and not arguments.json:
        _say(_NONE)


def _cancel(arguments: Arguments) -> None:
    from ractobatch_dagster.operating import account, cancel_open

    if not (arguments.all or arguments.asset or arguments.submission or arguments.partition is not None):
        raise ConfigurationError("Say what to cancel: --asset, --partition, --submission, or --all for everything.")
    store = _store(arguments)
    left = cancel_open(
        store,
        account(store, arguments.base_url, arguments.provider),
        _say,
        asset=arguments.asset,
        partition=arguments.partition,
        submission=arguments.submission,
        abandon=arguments.abandon,
    )
    _fail_if(left)


def _doctor(arguments: Arguments) -> None:
    from ractobatch_dagster.tending import doctor

    store = _store(arguments)
    _told(doctor(store, lambda: _connect(arguments, store)), as_json=arguments.json)


def _reconcile(arguments: Arguments) -> None:
    from ractobatch_dagster.tending import reconcile

    store = _store(arguments)
    _told(reconcile(store, _connect(arguments, store)), as_json=arguments.json)


def _gc(arguments: Arguments) -> None:
    from ractobatch_dagster.store import StoreClock
    from ractobatch_dagster.tending import gc

    store = _store(arguments)
    provider = None if arguments.store_only else _connect(arguments, store)
    _told(
        gc(store, provider, days=arguments.days, really=arguments.yes, now=StoreClock(store)()),
        as_json=arguments.json,
    )


def _named_asset(arguments: Arguments) -> tuple[BatchAsset, dict[str, Any]]:
    """The asset that is named, and what its function takes."""
    from ractobatch_dagster.previewing import loaded_from_files

    module, _, name = arguments.asset.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
    try:
        asset = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"There is no {arguments.asset!r}: {error}. Give MODULE:NAME.") from error
    unnamed = [one for one in arguments.frame if not all(one.partition("="))]
    if unnamed:
        raise ConfigurationError(f"--frame {unnamed[0]}: give NAME=FILE, the name being what the function calls it.")
    return loaded_from_files(asset, dict(one.partition("=")[::2] for one in arguments.frame))


def _estimate(arguments: Arguments) -> None:
    from ractobatch_dagster.resource import OpenAIBatchResource

    asset, given = _named_asset(arguments)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        resource = OpenAIBatchResource(
            root=arguments.root or folder,
            base_url=arguments.base_url,
            provider=arguments.provider,
            deployment=arguments.deployment,
            store_options=dict(option.partition("=")[::2] for option in arguments.store_option),
        )
        made = asset.estimate(resource, given, partition=arguments.partition, inputs=arguments.inputs)
    if arguments.json:
        _say_json(asdict(made))
    else:
        _say(str(made))


def _preview(arguments: Arguments) -> None:
    from ractobatch_dagster.previewing import check_partition, preview_asset

    asset, given = _named_asset(arguments)
    check_partition(asset, arguments.partition)
    store = _store(arguments) if arguments.root else None  # it is needed for the local server only
    made = preview_asset(
        asset.spec,
        asset.signature,
        _connect(arguments, store),
        given,
        rows=arguments.rows,
        seed=arguments.seed,
        partition=arguments.partition,
    )
    if arguments.json:
        rows = made.table.select(made.shown).to_pylist()
        _say_json({"rows": rows, "requests": made.requests, "rows_to_ask": made.rows, "cost_usd": made.cost_usd})
    else:
        _say(str(made))
