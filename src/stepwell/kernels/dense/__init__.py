"""Array functions of dense data: shuffle, gather of byte strings, tokens, pixels. Slow twins are in `reference`."""

from stepwell.kernels.dense.permute import permute
from stepwell.kernels.dense.png import decode_png
from stepwell.kernels.dense.spans import gather_spans
from stepwell.kernels.dense.standardise import standardise
from stepwell.kernels.dense.tokens import hash_tokens

__all__ = ["decode_png", "gather_spans", "hash_tokens", "permute", "standardise"]
