"""Text as token ids."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.access.dense.stage import RowStage, without
from stepwell.core.batch import Batch
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.kernels.dense import hash_tokens
from stepwell.storage import Codes, Ragged


@dataclass(frozen=True, slots=True)
class Tokenise(RowStage):
    """Text as token ids by hashing: no vocabulary to fit, store or agree on.

    A token is a longest run of ASCII letters, digits, or bytes of other scripts, lower-cased. Its id is
    `1 + FNV-1a(bytes) mod (size - 1)`; 0 pads. Texts longer than `length` tokens are cut. Gives `tokens`, int64
    `[B, length]`, in the place of the column.

    Args:
        column: A string column.
        size: Ids, padding included: the rows of the embedding table.
        length: Tokens a text.
        name: The field to give.

    Raises:
        InvalidValueError: If `size < 2` or `length < 1`.

    Cost:
        About a nanosecond a byte, without the interpreter lock.

    References:
        Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.

    Example:
        >>> from stepwell.core import Slice
        >>> batch = Batch(Slice(0, 0, 0, 2), text=Ragged.of(["To be!", "be to"]))
        >>> tokens = Tokenise("text", size=100, length=3)(batch).array("tokens")
        >>> bool(tokens[0, 0] == tokens[1, 1]), int(tokens[0, 2])
        (True, 0)
    """

    column: str
    size: int = 1 << 14
    length: int = 64
    name: str = "tokens"

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InvalidValueError("size", self.size, "at least 2")
        if self.length < 1:
            raise InvalidValueError("length", self.length, "at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """The text column."""
        return frozenset((self.column,))

    @property
    def gives(self) -> frozenset[str]:
        """The token field."""
        return frozenset((self.name,))

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with tokens in the place of the text."""
        value = batch[self.column]
        text = value.ragged() if isinstance(value, Codes) else value
        if not isinstance(text, Ragged):
            raise DataError(f"column {self.column!r}", "it holds no text", "a string column", "name another column")
        tokens = hash_tokens(text.offset, text.data, self.size, self.length)
        return without(batch, self.needs, {self.name: tokens})
