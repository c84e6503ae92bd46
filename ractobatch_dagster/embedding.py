"""What an answer of the embeddings endpoint is: a vector, of the length that model and request say."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field, create_model

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["Embedding", "embedding_model"]

# OpenAI, embeddings guide; other models' vectors are lists of no fixed length unless the request says one
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


class Embedding(BaseModel):
    """A vector.

    Attributes:
        dimensions: How many numbers it has; `None` where only the answer tells.
    """

    dimensions: ClassVar[int | None] = None

    embedding: list[float] = Field(description="The text as a vector.")


def embedding_model(model: str, dimensions: Any = None) -> type[Embedding]:
    """The output model of an embedding.

    Args:
        model: The model that is asked.
        dimensions: What the request asks for, where it does.

    Raises:
        ConfigurationError: That is no number of dimensions.
    """
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise ConfigurationError(f"extra: {dimensions!r} is no number of dimensions.")
    made = create_model("Embedding", __base__=Embedding)
    made.dimensions = dimensions or _DIMENSIONS.get(model)
    return made
