"""Celery workers around one broker and one object store: what several machines would be, as processes of this one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import redis

from ractobatch_dagster.store import Store
from tests.integration.s3 import BUCKET, options
from tests.integration.world import World, wait_for

REDIS = shutil.which("redis-server")
VISIBILITY = 30
"""Seconds after which the broker hands out a step again that nobody has finished; no step here takes as long."""

_CODE = ("-m", "tests.integration.celery_location")
_RELIABLE = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
}


class Cluster(World):
    """A broker and workers beside what a `World` has; the store is on an S3.

    Args:
        folder: Where everything is that is on disk.
        s3: The port of the S3.
        url: The address of the batch server.
        workers: How many workers to start.
    """

    def __init__(self, folder: Path, *, s3: int, url: str, workers: int) -> None:
        super().__init__(folder)
        self.root = Store(f"s3://{BUCKET}/root", options(s3))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.broker = redis.Redis(port=port)
        broker_url = f"redis://127.0.0.1:{port}/0"
        self.environ |= {
            "RACTOBATCH_TEST_ROOT": self.root.url,
            "RACTOBATCH_TEST_URL": url,
            "RACTOBATCH_TEST_BROKER": broker_url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the starter looks for `celery`
            **{f"AWS_{name.removeprefix('aws_').upper()}": value for name, value in options(s3).items()},
        }
        self._start("redis", str(REDIS), *f"--port {port} --bind 127.0.0.1 --appendonly no --save".split(), "")
        wait_for(self._broker_answers, lambda: f"the broker: {self.log('redis')}")
        self._settings = folder / "celery.yaml"
        config = {"broker": broker_url, "backend": broker_url, "config_source": _RELIABLE}
        self._settings.write_text(json.dumps({"execution": {"config": config}}), encoding="utf-8")
        self.workers = {name: self._worker(name) for name in (f"worker{number}" for number in range(workers))}
        for name in self.workers:
            wait_for(lambda name=name: " ready." in self.log(name), lambda name=name: f"{name}: {self.log(name)}")

    def materialise(self, asset: str) -> subprocess.Popen[bytes]:
        """Start a run of one asset, as a person would from the command line."""
        return self._start(
            "run", str(Path(sys.executable).with_name("dagster")), "asset", "materialize", *_CODE, "--select", asset
        )

    def daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon, with the code server and the runs that it starts in turn."""
        return self._start("daemon", str(Path(sys.executable).with_name("dagster-daemon")), "run", *_CODE)

    def executions(self, asset: str) -> list[tuple[str, str]]:
        """Which step went to which worker, in the order of time, over all runs; a step that was lost comes twice."""
        return [
            (str(event.step_key), str(event.engine_event_data.metadata["Celery worker"].value).partition("@")[0])
            for run in self.instance.get_runs()
            for entry in self.instance.all_logs(run.run_id)
            if (event := entry.dagster_event) and event.is_engine_event and event.step_key
            if "Celery worker" in event.engine_event_data.metadata and event.step_key.partition(".")[0] == asset
        ]

    def finished(self) -> set[str]:
        """The steps that have succeeded."""
        found: set[str] = set()
        for run in self.instance.get_runs():
            for entry in self.instance.all_logs(run.run_id):
                if entry.dagster_event and entry.dagster_event.is_step_success:
                    found.add(str(entry.dagster_event.step_key))
        return found

    def kill_in(self, step: str) -> tuple[str, str]:
        """`kill -9` a worker with all its processes in the middle of a step whose key begins so; tell both.

        The worker is stopped first, so that the step cannot end between the look and the kill.
        """

        def caught() -> tuple[str, str] | None:
            done = self.finished()
            for key, worker in self.executions(step.partition(".")[0]):
                if key.startswith(step) and key not in done:
                    os.killpg(self.workers[worker].pid, signal.SIGSTOP)
                    if key not in self.finished():
                        return key, worker
                    os.killpg(self.workers[worker].pid, signal.SIGCONT)
            return None

        key, worker = wait_for(caught, lambda: f"no {step} to be killed in: {self.explain()}")
        os.killpg(self.workers[worker].pid, signal.SIGKILL)
        self.workers[worker].wait()
        return key, worker

    def explain(self) -> str:
        """What stands there, for the message of a test that fails."""
        runs = [(run.status.value, sorted(run.asset_selection or ())) for run in self.instance.get_runs()]
        return f"runs {runs}\n{self.log('run')}\n{self.log('daemon')}"

    def _worker(self, name: str) -> subprocess.Popen[bytes]:
        starter = str(Path(sys.executable).with_name("dagster-celery"))
        given = ("-A", "dagster_celery.app", "-n", name, "-y", str(self._settings), "--", "--concurrency=1")
        return self._start(name, starter, "worker", "start", *given)

    def _broker_answers(self) -> bool:
        with contextlib.suppress(redis.exceptions.ConnectionError):
            return bool(self.broker.ping())
        return False
