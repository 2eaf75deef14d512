"""Searches by name: small runs on the public data, their command line, and the text models behind two of them."""

import argparse
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stepwell.cli import search as cli
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.overrides import override
from stepwell.recipes import Search, searches
from stepwell.recipes.search import Material, tagged, texts_of
from stepwell.recipes.text import IGNORED, Body, Head, entity_f1, entity_scores, pretrained, spans, word_ids
from stepwell.select import StudySettings

WORDS = "good bad film play the a was by ##s berlin anna".split()
WIDTH, HEADS, INNER, LAYERS = 16, 2, 32, 3


def needs(*parts):
    if not Path(os.environ.get("STEPWELL_DATA", "nowhere")).joinpath(*parts).exists():
        pytest.skip(f"{'/'.join(parts)} is not here")


def test_networks_on_mnist_learn(tmp_path):
    needs("mnist", "train.parquet")
    asked = override(searches["search_mnist"](), ["rows=1500", "epochs=2", "settings.slices=1", "settings.early=false"])
    study = replace(asked, space={"width": 8, "lr": [0.1, 0.0001], "momentum": 0.9}).run(tmp_path)
    assert study.best().params["lr"] == 0.1
    assert study.best().value > 0.7


def test_halving_over_perceptrons_on_adult_beats_the_majority(tmp_path):
    needs("adult", "train.parquet")
    asked = override(searches["search_adult"](), ["rows=3000", "epochs=3", "configs=3"])
    study = asked.run(tmp_path)
    assert sorted(one.epoch for one in study.configs) == [1, 1, 3]
    assert study.best().value > 0.8, "76 % earn little"


def test_temporal_networks_on_collegemsg_share_batches_and_rank_above_chance(tmp_path):
    needs("collegemsg", "interactions.parquet")
    asked = override(searches["search_collegemsg"](), ["rows=3000", "epochs=2"])
    study = replace(asked, space={"kind": ["tgn", "tgat"], "lr": 0.003, "width": 8}).run(tmp_path)
    assert {len(span.configs) for span in study.records.spans} == {2}
    assert study.best().value > 0.78, "one other candidate: 0.75 by chance"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return the folder of a tiny encoder with random weights."""
    pytest.importorskip("tokenizers")
    folder, draw = tmp_path_factory.mktemp("encoder"), torch.Generator().manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    sizes = {"word_embeddings": len(vocabulary), "position_embeddings": 16, "token_type_embeddings": 2}
    shapes = {f"embeddings.{name}.weight": (rows, WIDTH) for name, rows in sizes.items()}
    shapes |= {f"embeddings.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    dense = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    dense |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH)}
    dense |= {"output.dense": (WIDTH, INNER)}
    for number in range(LAYERS):
        for name, shape in dense.items():
            shapes[f"encoder.layer.{number}.{name}.weight"] = shape
            shapes[f"encoder.layer.{number}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{number}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
    weights = {
        name: (1.0 if "word" in name else 0.15) * torch.randn(shape, generator=draw) for name, shape in shapes.items()
    }
    for name in weights:
        weights[name] += name.endswith("LayerNorm.weight")
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "bert", "hidden_size": WIDTH, "num_attention_heads": HEADS}
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": INNER, "num_hidden_layers": LAYERS}))
    places = {word: place for place, word in enumerate(vocabulary)}
    ends = {name: {"id": name, "ids": [places[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    single.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    tokenizer = {
        **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "decoder": None},
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ends},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": places},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


def bert_reference(weights, ids):
    """State, in the paper's own terms and one text at a time, what an encoder computes."""

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    tables = [weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = norm(tables[0][ids] + tables[1][: len(ids)] + tables[2][0], "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        parts = [dense(x, f"{layer}.attention.self.{name}").split(WIDTH // HEADS, -1)
                 for name in ("query", "key", "value")]  # fmt: skip
        heads = [torch.softmax(q @ k.T / math.sqrt(WIDTH // HEADS), -1) @ v for q, k, v in zip(*parts, strict=True)]
        x = norm(x + dense(torch.cat(heads, -1), f"{layer}.attention.output.dense"),
                 f"{layer}.attention.output.LayerNorm")  # fmt: skip
        inner = torch.nn.functional.gelu(dense(x, f"{layer}.intermediate.dense"))
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def test_body_and_last_layers_together_are_the_encoder_and_padding_changes_nothing(encoder):
    whole = pretrained(encoder)
    ids = torch.tensor([[2, 4, 6, 7, 3, 0, 0], [2, 5, 3, 0, 0, 0, 0]])
    for cut in range(LAYERS + 1):
        head = Head(whole, cut, 2, "none").eval()
        hidden = whole.body(cut)(ids)
        assert not hidden[ids == 0].any()
        for layer in head.layers:
            hidden = layer(hidden, src_key_padding_mask=ids == 0)
        for row, length in enumerate((5, 3)):
            expected = bert_reference(whole.weights, ids[row, :length])
            assert torch.allclose(hidden[row, :length], expected, atol=1e-5)
    pooled = Head(whole, LAYERS, 2, "mean").eval()
    short, long = whole.body(LAYERS)(ids[:, :5]), whole.body(LAYERS)(ids)
    assert torch.allclose(pooled(short), pooled(long), atol=1e-5)


def test_words_are_found_at_their_first_token(encoder):
    ids, begins = word_ids(pretrained(encoder), [["Films", "by", "Anna"], ["the", "play"]], 8)
    assert begins[0].tolist() == [IGNORED, 0, IGNORED, 1, 2, IGNORED, IGNORED, IGNORED]
    assert (ids[1] != 0).sum() == 4


def test_heads_on_one_frozen_body_learn_and_its_outputs_are_stored_once(encoder, tmp_path):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 200)
    texts = [" ".join(draw.permutation(["the", "film", "was", ("bad", "good")[label]])) for label in labels]

    def gather(rows, place):
        return texts_of(texts, labels, (np.arange(160)[: rows or None], np.arange(160, 200)), place, 8)

    asked = Search(gather, {"lr": [0.01, 0.003], "layers": [1], "pool": ["mean", "first"]}, epochs=4, encoder=encoder,
                   settings=StudySettings(partitions=2, slices=1, batch_size=16))  # fmt: skip
    study = asked.run(tmp_path)
    assert study.best().value > 0.9
    assert len(list((tmp_path / "features").iterdir())) == 1, "one body serves four heads"
    assert sum(len(one) > 0 for one in study.records.spans[0].configs) == 1


def test_taggers_find_names(encoder, tmp_path):
    draw = np.random.default_rng(0)
    words = [[str(word) for word in draw.choice(["the", "film", "by", "anna", "berlin"], 5)] for _ in range(150)]
    tags = [["B-LOC" if word == "berlin" else "B-PER" if word == "anna" else "O" for word in text] for text in words]
    material = tagged(words, tags, (np.arange(120), np.arange(120, 150)), encoder, 10)
    asked = Search(lambda rows, place: material, {"lr": 0.01, "layers": 1}, epochs=4,
                   settings=StudySettings(partitions=2, slices=1, batch_size=16))  # fmt: skip
    assert asked.run(tmp_path).best().value > 0.9
    with pytest.raises(InvalidValueError, match="one a word"):
        tagged([["a", "b"]], [["O"]], (np.arange(1), np.arange(1)), encoder)


def test_entities_are_counted_as_the_conll_scorer_counts_them():
    assert spans("O B-PER I-PER B-PER O".split()) == {(1, 3, "PER"), (3, 4, "PER")}
    assert spans("I-LOC I-LOC O I-ORG I-LOC".split()) == {(0, 2, "LOC"), (3, 4, "ORG"), (4, 5, "LOC")}
    assert spans(["O"]) == set()
    names = ("B-X", "I-X", "O")
    target = torch.tensor([[IGNORED, 0, 1, 2, 0], [2, 2, 2, 2, IGNORED]])
    guess = torch.tensor([[0, 0, 1, 2, 2], [2, 2, 2, 2, 0]])
    scores = torch.nn.functional.one_hot(guess, 3).float().transpose(1, 2)
    assert entity_scores(scores, target, names).tolist() == pytest.approx([2 / 3, 1.0])
    assert entity_f1(scores, target, names) == pytest.approx(2 / 3)


def test_an_encoder_that_is_none_is_refused(encoder, tmp_path):
    with pytest.raises(DataError, match="config"):
        pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(DataError, match="gpt2"):
        pretrained(str(tmp_path))
    with pytest.raises(InvalidValueError, match="within 0 and 3"):
        Body(pretrained(encoder), 4)


def small():
    """Two perceptrons on points."""
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    material = Material((x, (x[:, 0] > 0).long()), 0.25, lambda params: torch.nn.Linear(2, 2))
    return Search(lambda rows, encoder: material, {"lr": [0.1, 0.001]}, epochs=3)


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    cli.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line_runs_a_recipe_and_goes_on_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    own = "tests.unit.recipes.test_search_recipes:small"
    place = str(tmp_path / "small")
    asked = options(own, "--set", "epochs=2", "--out", place, "--json")
    assert cli.search(asked) == 0
    first = json.loads(capsys.readouterr().out)
    assert [one["epochs"] for one in first["configs"]] == [2, 2]
    assert cli.search(options(own, "--set", "epochs=2", "--out", place)) == 0
    assert cli.search(options(place, "--json")) == 0
    assert cli.search(options("--list")) == 0
    assert "search_ner" in capsys.readouterr().out
    with pytest.raises(UnknownNameError, match="search recipe"):
        cli.search(options("nowhere:nothing", "--out", place))
