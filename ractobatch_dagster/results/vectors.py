"""Embeddings as a column of vectors."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["read_vectors", "vector_type"]


def vector_type() -> pa.DataType:
    """A list of 32-bit floats.

    Not one of a fixed size, although each is of the length that was asked for: a row without an answer has none, and
    PyArrow, up to version 24 at least, cannot write a Parquet file of such lists in which one is null.
    """
    import pyarrow as pa

    return pa.list_(pa.float32())


def read_vectors(texts: Sequence[str | None], dimensions: int | None) -> tuple[pa.Array, list[str | None]]:
    """The vectors that these texts are, and for each what is wrong with it, if anything is.

    Args:
        texts: Base64 of little-endian 32-bit floats, as the API packs them, or a JSON list of numbers.
        dimensions: How long each must be.
    """
    import pyarrow as pa

    vectors: list[np.ndarray | None] = []
    problems: list[str | None] = []
    for text in texts:
        vector, problem = _vector(text, dimensions) if text is not None else (None, None)
        vectors.append(vector)
        problems.append(problem)
    return pa.array(vectors, vector_type()), problems


def _vector(text: str, dimensions: int | None) -> tuple[np.ndarray | None, str | None]:
    import numpy as np

    try:
        if text.startswith("["):
            numbers = json.loads(text)
            if not all(type(number) in (int, float) for number in numbers):
                raise ValueError("not all of it are numbers")
            with np.errstate(over="ignore"):
                vector = np.array(numbers, np.float32)
        else:
            vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32, copy=False)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        return None, f"it is no vector: {error}"
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        return None, "it is no vector of finite numbers"
    if dimensions is not None and len(vector) != dimensions:
        return None, f"it has {len(vector)} dimensions, and {dimensions} were asked for"
    return vector, None
