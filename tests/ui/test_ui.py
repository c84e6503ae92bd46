"""Dagster's UI on the example, in a browser: what somebody clicks on, and what is there then.

`make test-ui` runs it, with Debian's Chromium or the one that CHROMIUM names. With SCREENSHOTS=docs the pictures of the
documentation are made anew.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.example.test_demo import read_until, run_demo

pytestmark = pytest.mark.ui

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
MINUTE = 60_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The UI on what a demo made."""
    home = tmp_path_factory.mktemp("demo")
    demo = run_demo(home)
    assert demo.wait(180) == 0, demo.stdout.read() if demo.stdout else ""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ui = run_demo(home, "--ui", PORT=str(port))
    try:
        read_until(ui, "Dagster's UI is at")
        yield f"http://127.0.0.1:{port}"
    finally:
        ui.terminate()
        ui.wait(30)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """A page of a browser, whose first greeting is over."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; CHROMIUM names one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        opened.set_default_timeout(MINUTE)
        opened.request.post(f"{address}/graphql", data={"query": "mutation { setNuxSeen }"})
        yield opened
        browser.close()


def picture(page: Any, name: str) -> None:
    """Keep a picture for the documentation, if that is wanted."""
    if SCREENSHOTS:
        page.wait_for_timeout(1_500)  # what is drawn moves into its place
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


def test_the_lineage_is_drawn(page: Any, address: str) -> None:
    """Reviews, table, what is made from it, and the pair in YAML (long names are cut in the middle)."""
    page.goto(f"{address}/locations/example/asset-groups/reviews/lineage")
    for name in ("reviews", "review_labels", "side_effects", "side_effect_groups"):
        page.get_by_text(name, exact=True).first.wait_for()
    assert page.get_by_text(re.compile("_submission$")).count() >= 2


def test_the_table_tells_of_itself(page: Any, address: str) -> None:
    """Columns with descriptions, rows, statuses with their picture, labels, a preview."""
    page.goto(f"{address}/assets/review_labels?view=overview")
    page.get_by_text("How satisfied the writer is").first.wait_for()
    page.get_by_text(re.compile(r"^openai\..*\.total_tokens$")).first.wait_for()
    for key in ("seconds_from_submission", "label_counts", "statuses_chart", "preview"):
        page.get_by_text(key, exact=True).first.wait_for()
    image = page.locator("img[src^='data:image/svg+xml']").first
    image.wait_for()
    assert image.bounding_box()["width"] > 100


def test_partitions_have_pages_of_their_own(page: Any, address: str) -> None:
    """What landed of one year."""
    page.goto(f"{address}/assets/review_labels?view=partitions&partition=2016")
    page.get_by_text("dagster/partition_row_count").first.wait_for()


def test_numbers_are_plotted(page: Any, address: str) -> None:
    """Behind the toggle of the metadata."""
    page.goto(f"{address}/assets/review_labels?view=overview")
    page.get_by_role("button", name="Plots").first.click()
    page.locator("canvas").first.wait_for()
    picture(page, "plots")


def test_the_account_is_plotted(page: Any, address: str) -> None:
    """Its observations, from the first batch to when nothing is open."""
    page.goto(f"{address}/assets/openai_batches?view=overview")
    page.get_by_text("prompt_tokens_enqueued_estimated").first.wait_for()
    page.get_by_role("button", name="Plots").first.click()
    page.locator("canvas").first.wait_for()


def test_checks_are_listed(page: Any, address: str) -> None:
    """With their results."""
    page.goto(f"{address}/assets/review_labels?view=checks")
    for name in ("every_row_is_there", "answers_are_usable", "batches_are_on_time", "sentiment_drift"):
        page.get_by_text(name, exact=True).first.wait_for()
    picture(page, "checks")


def test_the_sensor_speaks(page: Any, address: str) -> None:
    """Its page has its ticks, and it is on."""
    page.goto(f"{address}/locations/example/sensors/openai_batch_sensor")
    page.get_by_text("Running", exact=True).first.wait_for()
    page.get_by_text(re.compile("Tick history|Evaluation")).first.wait_for()


RUNS = """{ runsOrError(limit: 1) { ... on Runs { results { status pipelineName assetSelection { path } } } } }"""
BACKFILLS = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { status } } } }"


def until(page: Any, address: str, query: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The newest of what the query lists, once it is as wanted."""
    found: dict[str, Any] = {}
    for _ in range(60):
        data = page.request.post(f"{address}/graphql", data={"query": query}).json()["data"]
        (listed,) = data.values()
        found = listed["results"][0] if listed["results"] else {}
        if found and done(found):
            break
        page.wait_for_timeout(1_000)
    return found


def ended(run: dict[str, Any]) -> bool:
    """Whether a run did."""
    return run["status"] in ("SUCCESS", "FAILURE")


def test_a_submission_is_materialised_by_its_button(page: Any, address: str) -> None:
    """No config is asked for first, though there is some; and its run ends well."""
    page.goto(f"{address}/assets/side_effect_groups_submission?view=overview")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_text(re.compile("Launched run|View run")).first.wait_for()
    mine = [{"path": ["side_effect_groups_submission"]}]
    run = until(page, address, RUNS, lambda one: one["assetSelection"] == mine and ended(one))
    assert (run["assetSelection"], run["status"]) == (mine, "SUCCESS")


def test_a_backfill_of_all_partitions_by_its_button(page: Any, address: str) -> None:
    """It is one run, as the dialog says, and ends well; what was answered is not asked again."""
    page.goto(f"{address}/assets/review_labels_submission?view=overview")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_text("Backfills all partitions in a single run.").wait_for()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    backfill = until(page, address, BACKFILLS, lambda one: "COMPLETED" in one["status"])
    assert backfill["status"] == "COMPLETED_SUCCESS"
    page.goto(f"{address}/assets/review_labels_submission?view=partitions&partition=2016")
    page.get_by_text("rows_reused").first.wait_for()


def test_batches_are_cancelled_by_a_job(page: Any, address: str) -> None:
    """From its launchpad, without any config."""
    page.goto(f"{address}/locations/example/jobs/side_effect_groups_cancel/playground")
    page.get_by_role("button", name=re.compile("Launch run", re.IGNORECASE)).first.click()
    run = until(page, address, RUNS, lambda one: one["pipelineName"] == "side_effect_groups_cancel" and ended(one))
    assert (run["pipelineName"], run["status"]) == ("side_effect_groups_cancel", "SUCCESS")
