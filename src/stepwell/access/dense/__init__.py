"""Dense data through the pipeline: an exact shuffle, and stages for numbers, categories, text and images."""

from stepwell.access.dense.cached import CachedRows
from stepwell.access.dense.encode import Encode
from stepwell.access.dense.images import DecodeImage
from stepwell.access.dense.shuffle import Permutation, Shuffled, ShuffledBlocks
from stepwell.access.dense.tokens import Tokenise

__all__ = ["CachedRows", "DecodeImage", "Encode", "Permutation", "Shuffled", "ShuffledBlocks", "Tokenise"]
