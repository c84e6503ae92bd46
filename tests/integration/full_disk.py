"""Materialises the asset `waiting` in this process, in which no file may grow beyond so many bytes.

    python -m tests.integration.full_disk BYTES

Writing more fails as on a full disk, with EFBIG in the place of ENOSPC. Dagster keeps its own state in memory here, so
that it is our files alone that fail. What went wrong is printed, the whole chain of causes.
"""

import resource as limits
import signal
import sys

import dagster as dg

from tests.integration.definitions import resource, waiting
from tests.project import failure

if __name__ == "__main__":
    if len(sys.argv) > 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits.setrlimit(limits.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            waiting.assets, resources={"openai_batch": resource()}, instance=instance, raise_on_error=False
        )
    print(failure(result))
    sys.exit(not result.success)
