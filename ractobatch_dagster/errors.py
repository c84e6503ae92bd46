"""Every exception the package raises.

    RactobatchError
    ├── ConfigurationError (ValueError)        a resource, decorator or prompt was set up in a way that cannot work
    ├── InvalidInputError (ValueError)         a row or item was refused before any money was spent
    ├── ProviderError                          the provider, or the way to it, answered with an error
    │   ├── ProviderTimeoutError (TimeoutError)    no answer in time
    │   ├── ProviderAuthError                  the key was refused or lacks the right
    │   └── ProviderAPIError                   any other error answer, or none that can be read
    │       ├── ProviderNotFoundError          the batch or file does not exist for this key
    │       └── QueueFullError                 nothing is wrong but the quota; the same call will succeed later
    ├── BatchNotReadyError (RuntimeError)      results were asked for before the batch ended
    ├── BatchFailedError (RuntimeError)        the provider refused the whole batch; nothing was run or billed
    ├── BatchWaitTimeoutError (TimeoutError)   we stopped waiting; the batch itself goes on
    ├── BudgetError                            a budget admits no more of a submission, however long one waits
    ├── SubmissionConflictError                an open submission of the same partition holds other rows
    └── StoreError                             the submission's state could not be read or written

The second base class, where there is one, is what code written for the
`OpenAIBatchProcessor` of ractogateway catches. Its own exception names are kept at the
end of this module as further names of the same classes.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BatchFailedError",
    "BatchNotReadyError",
    "BatchWaitTimeoutError",
    "BudgetError",
    "ConfigurationError",
    "InvalidInputError",
    "ProviderAPIError",
    "ProviderAuthError",
    "ProviderError",
    "ProviderNotFoundError",
    "ProviderTimeoutError",
    "QueueFullError",
    "RactoGatewayAPIError",
    "RactoGatewayAuthError",
    "RactoGatewayError",
    "RactoGatewayTimeoutError",
    "RactobatchError",
    "StoreError",
    "SubmissionConflictError",
]


class RactobatchError(Exception):
    """Base class of every exception this package raises."""


class ConfigurationError(RactobatchError, ValueError):
    """A resource, decorator or prompt was set up in a way that cannot work; the message says which part."""


class InvalidInputError(RactobatchError, ValueError):
    """A row or item was refused before any money was spent.

    Attributes:
        custom_id: The id of the offending item, where one is to blame.
        row: Its position in the input, counted from 0, where one is to blame.
    """

    def __init__(self, message: str, *, custom_id: str | None = None, row: int | None = None) -> None:
        super().__init__(message)
        self.custom_id = custom_id
        self.row = row


class ProviderError(RactobatchError):
    """The provider, or the way to it, answered with an error. No message holds a key.

    `__cause__` is the client's own exception, unless its text holds a key.

    Attributes:
        status_code: The HTTP status, or `None` where no answer came.
        code: The provider's own error code, where it gave one.
        retry_after: Seconds after which the provider wants to be asked again, where it said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after

    @property
    def refused(self) -> bool:
        """Whether the provider has surely not done, and will not do, what it was asked."""
        code = self.status_code
        return code is not None and 400 <= code < 500 and code not in (408, 409)

    @property
    def unsupported(self) -> bool:
        """Whether the provider has no such call, or nothing of this name."""
        return self.status_code in (404, 405, 501)


class ProviderTimeoutError(ProviderError, TimeoutError):
    """No answer came in time. Whether the call took effect is unknown."""


class ProviderAuthError(ProviderError):
    """The key was refused, or lacks the right to do this."""


class ProviderAPIError(ProviderError):
    """Any other error answer, or an answer that cannot be read."""


class ProviderNotFoundError(ProviderAPIError):
    """The batch or file does not exist for this key: deleted, or made with another key or project."""


class QueueFullError(ProviderAPIError):
    """Nothing is wrong but the quota (enqueued tokens, batches per hour); the same call will succeed later."""


class BatchNotReadyError(RactobatchError, RuntimeError):
    """Results were asked for before the batch had ended."""


class BatchFailedError(RactobatchError, RuntimeError):
    """The provider refused the whole batch at validation; nothing was run or billed.

    Attributes:
        batch_id: The batch's id at the provider.
        issues: What the provider said, one text per issue, with line numbers where it gave them.
    """

    def __init__(self, message: str, *, batch_id: str, issues: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.batch_id = batch_id
        self.issues = tuple(issues)


class BatchWaitTimeoutError(RactobatchError, TimeoutError):
    """We stopped waiting; the batch itself goes on and can still be collected by its id."""


class BudgetError(RactobatchError):
    """A budget admits no more of a submission's batches, and time will not change that. Nothing was spent on them."""


class SubmissionConflictError(RactobatchError):
    """An open submission of the same partition holds other rows; nothing was spent.

    Attributes:
        submission: The id of the open submission.
    """

    def __init__(self, message: str, *, submission: str) -> None:
        super().__init__(message)
        self.submission = submission


class StoreError(RactobatchError):
    """The submission's state could not be read or written. It is never taken for "there is none"."""


# The names of ractogateway's exceptions, for code that switches by changing an import.
RactoGatewayError = RactobatchError
RactoGatewayAPIError = ProviderAPIError
RactoGatewayAuthError = ProviderAuthError
RactoGatewayTimeoutError = ProviderTimeoutError
