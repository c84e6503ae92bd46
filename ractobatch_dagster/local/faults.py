"""Everything the server can do wrong on request, so that a client can be shown to survive it.

`Faults` says what goes wrong with batches and files, `CallFault` what goes wrong with single HTTP calls. They are
all there is to set; what remembers how often something has gone wrong already is in `trouble`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, get_args

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["AZURE", "CallFault", "Fate", "Faults"]

_Word = Literal[
    "drop",  # in neither file
    "late",  # not reached before its batch expires, which it then does
    "invalid",  # named, with its line, by the validation that fails the whole batch
    "ghost",  # status 0, an empty body and no error
    "error",  # an `error` and no response
    "expired",  # the error `batch_expired`, though the batch goes on
    "cancelled",  # the error `batch_cancelled`, though the batch goes on
    "body_error",  # status 200 with an error in the body, in the output file
    "text_body",  # answered, and the body is JSON in a string
    "no_usage",  # answered, and `usage` is null
    "separators",  # answered, with U+2028, U+2029 and U+0085 unescaped
    "both",  # answered in the output file, and failed in the error file
    "twice",  # its line is there twice
    "broken",  # its line is cut in half, so that it is no JSON
]
Fate = int | _Word
"""What becomes of a request: an HTTP status that it fails with, or one of the words above."""


@dataclass(frozen=True)
class CallFault:
    """What goes wrong with HTTP calls of one kind, for example `CallFault("POST", "/v1/batches", status=503)`.

    Attributes:
        method: `GET`, `POST` or `DELETE`; `*` is any.
        route: The path, with `{id}` for an id, for example `/v1/batches/{id}/cancel`; `*` is any.
        times: How many times it happens; `None` is every time.
        skip: How many calls go well before.
        chance: With which probability it happens to a call, drawn by the seed of the `Faults`.
        wait: For how many seconds the call waits before the server takes it up. A client that has given up by
            then does not stop it.
        done: What the call asks for is done, and only the reply is lost. A call that is refused anyway gets its
            refusal, which does not count.
        hold: For how many seconds the reply is held back.
        status: The HTTP status of the reply; `None` leaves the reply as it is.
        message: What the reply says; in it `{key}` stands for the key that the client sent.
        code: The error code of the reply.
        retry_after: What `Retry-After` says, in seconds.
        retry_after_date: `Retry-After` is a date.
        closed: There is no reply: the connection is closed.

    Raises:
        ConfigurationError: It would do nothing, or two things at once.
    """

    method: str = "*"
    route: str = "*"
    _: KW_ONLY
    times: int | None = None
    skip: int = 0
    chance: float = 1.0
    wait: float = 0.0
    done: bool = False
    hold: float = 0.0
    status: int | None = None
    message: str | None = None
    code: str | None = None
    retry_after: float | None = None
    retry_after_date: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and self.closed:
            raise ConfigurationError("A CallFault has a status or closes the connection, not both.")
        if self.status is None and not (self.closed or self.wait or self.hold):
            raise ConfigurationError("This CallFault does nothing: give it a status, closed, wait or hold.")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong; by default nothing.

    A share is a number from 0 to 1; the requests it falls on are drawn anew for each batch, exactly that share of
    them, rounded up. A count says how many times something happens before it works. Times are in seconds.

    Raises:
        ConfigurationError: A request's fate is not known, or `batches` are nested.
    """

    # Where, and how it is drawn

    seed: int = 0
    """Draws other requests, and another order of the result lines."""
    batches: Mapping[int, Faults] = field(default_factory=dict)
    """Exactly these faults instead, for a batch by its number: `3` is `server.batches()[3]`. They cover its creation,
    its life, its files, and the calls that name it or one of them."""
    first_attempts: int | None = None
    """Only this many batches, counted from when the faults were set, have the faults of single requests, of lines, of
    a batch's life and of its objects, so that a retry succeeds; `None` is all of them."""

    # Single requests

    requests: Mapping[str, Fate] = field(default_factory=dict)
    """What becomes of single requests, by `custom_id`."""
    shares: Mapping[Fate, float] = field(default_factory=dict)
    """What becomes of a share of the requests of each batch."""
    drop: float = 0.0
    """Short for `shares={"drop": …}`."""
    drop_ids: Set[str] = frozenset()
    """Short for `requests={…: "drop"}`."""
    fail: Mapping[int, float] = field(default_factory=dict)
    """HTTP status, and the share of requests that end with it in the error file; short for `shares`."""
    fail_ids: Mapping[str, int] = field(default_factory=dict)
    """`custom_id`, and the HTTP status it ends with; short for `requests`."""
    ghost: float = 0.0
    """Short for `shares={"ghost": …}`."""
    expire_at: float | None = None
    """The batch expires after this share of its requests was answered; the others are `batch_expired` in the error
    file."""
    cancel_at: float | None = None
    """The same, but somebody cancels the batch: the others are `batch_cancelled`."""

    # Result files

    duplicate_lines: int = 0
    """How many lines of the output file appear twice."""
    unknown_lines: int = 0
    """How many lines answer a `custom_id` that nobody sent."""
    bad_lines: int = 0
    """How many lines of the output file are cut in half, so that they are no JSON."""
    separators: bool = False
    """Put U+2028, U+2029 and U+0085 unescaped into each answer."""
    line_ids: bool = True
    """Lines have an `id` of their own."""
    errors_in_output: bool = False
    """Failed requests are in the output file, and there is no error file."""
    empty_error_file: bool = False
    """A batch in which nothing failed has an error file of zero bytes."""
    unfinished_lines: bool = True
    """Requests that a batch did not reach before it expired or was cancelled have a line in the error file."""
    output_lifetime: float | None = None
    """Result files are gone after this time; `0` is at once."""

    # The life of a batch

    takes: float | None = None
    """How long the batch takes at least, whatever the server's `seconds` are."""
    day: float = 24 * 60 * 60
    """How long the 24 hours are after which a batch expires."""
    overtime: bool = False
    """A batch does not expire when its 24 hours are over; it goes on until it is done."""
    stuck_in: Literal["validating", "in_progress", "finalizing"] | None = None
    """Batches stay in this status for ever, until cancelled."""
    cancelling_takes: float = 0.0
    """How long a cancelled batch stays `cancelling`."""
    fails_with: str | None = None
    """Validation fails the batch with this error code, and names no line."""

    # Batches as they are shown

    lying_counts: bool = False
    """`request_counts` says that all were completed and none failed."""
    empty_file_ids: bool = False
    """File ids that are not there are `""`, not null."""
    upper_case_statuses: bool = False
    """`COMPLETED`, not `completed`."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """Other words for statuses, for example `{"cancelled": "canceled"}`."""
    no_metadata: bool = False
    """Metadata is taken and forgotten; short for `null_fields={"metadata"}`."""
    null_fields: Set[str] = frozenset()
    """These fields of a batch are null, for example `request_counts`, `usage` or `errors`."""

    # Creating a batch

    queue_full: Literal["429", "400", "failed"] | None = None
    """How a full queue shows, by `queue_full_times` or `queue_limit`: creating is answered `429` or `400`, or it
    succeeds and the batch has `failed` a moment later."""
    queue_full_times: int = 0
    """How many batches meet a full queue, however many are open."""
    queue_limit: int | None = None
    """How many batches may be open at once; one more meets a full queue."""
    creates_per_hour: int | None = None
    """How many batches may be created in an hour; one more is a 429 whose `Retry-After` says when it is over."""
    hour: float = 60 * 60
    """How long that hour is."""
    retry_after: float | None = None
    """What the `Retry-After` of a full queue's 429 says, in seconds; `None` sends none."""
    not_found_after_upload: int = 0
    """How many times creating says that the input file cannot be found."""
    not_found_for: float = 0.0
    """How long after its upload creating says so."""
    missing_file_accepted: bool = False
    """Creating from an input file that is not there succeeds, and the batch fails a moment later."""
    lost_create_replies: int = 0
    """How many times a batch is created but the reply is a 500; short for a `CallFault` with `done`."""

    # Lists and downloads

    list_lag: float = 0.0
    """How old lists of batches are: a new batch is not there yet, and others stand where they stood then."""
    file_list_lag: float = 0.0
    """How long a new file is missing in lists of files."""
    oldest_first: bool = False
    """Lists of batches begin with the oldest."""
    bad_gateway_downloads: int = 0
    """How many downloads are answered 502; short for a `CallFault`."""
    cut_downloads: int = 0
    """How many downloads break off in the middle."""
    short_downloads: int = 0
    """How many downloads end in the middle as if that were all."""
    gzip_downloads: bool = False
    """Downloads are compressed where the client takes that."""
    no_content_length: bool = False
    """Downloads do not say how long they are."""

    # Calls

    calls: Sequence[CallFault] = ()
    """What goes wrong with HTTP calls: to each the first happens that fits and is not used up."""
    outage: int = 0
    """How many calls of any kind are answered 503; short for a `CallFault`."""

    def __post_init__(self) -> None:
        words = get_args(_Word)
        for fate in (*self.requests.values(), *self.shares):
            if isinstance(fate, str) and fate not in words:
                raise ConfigurationError(f"A request cannot have the fate {fate!r}: it is a status or one of {words}.")
        if any(part.batches for part in self.batches.values()):
            raise ConfigurationError("The faults of a single batch cannot have `batches` of their own.")


AZURE = Faults(
    empty_file_ids=True,
    empty_error_file=True,
    line_ids=False,
    overtime=True,
    null_fields=frozenset({"endpoint"}),
)
"""How Azure OpenAI differs, which is no fault; take more with `dataclasses.replace(AZURE, …)`."""
