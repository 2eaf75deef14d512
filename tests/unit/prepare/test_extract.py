"""Extract: values stand in their spans, answers are replayed, disagreeing extractors are votes, relations a graph."""

import json

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.extract import (
    Answered,
    Dictionary,
    Found,
    Grammar,
    Regex,
    RelationPattern,
    agreed,
    extract,
    graph,
    read_texts,
    relate,
    span_votes,
)
from stepwell.prepare.extract.answers import NotAnsweredError
from stepwell.prepare.extract.sources import html_text
from stepwell.prepare.extract.spans import wide
from stepwell.prepare.extract.votes import NOTHING, candidates
from stepwell.prepare.label import LabelModel

TEXTS = pa.table(
    {"_row": [10, 20, 30], "text": ["Ada Lovelace of London, born 10 Dec 1815", None, "new york, New York"]}
)


def found(spans):
    return [(s["_row"], s["field"], s["value"], s["begin"], s["end"]) for s in spans.to_pylist()]


def test_rules_and_dictionaries_give_exact_spans():
    date = Grammar("date", "DAY MONTH <YEAR>", {"DAY": "[0-9]{1,2}", "MONTH": "Dec|Jan", "YEAR": "[0-9]{4}"})
    places = Dictionary({"London": "place", "New York": "place", "York": "place"})
    assert found(extract(TEXTS, [date, places, Regex("name", r"(\w+) of")]).spans) == [
        (10, "name", "Lovelace", 4, 12),
        (10, "place", "London", 16, 22),
        (10, "date", "1815", 36, 40),
        (30, "place", "New York", 10, 18),
    ]


def test_a_dictionary_may_ignore_case():
    places = Dictionary({"new York": "place"}, ignore_case=True)
    assert [begin for *_, begin, _ in found(extract(TEXTS, [places]).spans)] == [0, 10]


def test_a_grammar_repeats_and_keeps_to_whole_words():
    rule = Grammar("list", 'WORD "," WORD+ "end"?', {"WORD": "[a-z]+"})
    assert [f.value for f in next(rule.find(["x a, b c end, d endless"]))] == ["a, b c end", "d endless"][:1]
    with pytest.raises(InvalidValueError, match="one of the classes"):
        next(Grammar("x", "WORT", {"WORD": "a"}).find(["a"]))


def test_a_value_that_does_not_stand_in_its_span_is_quarantined():
    answers = [Found("a", "Ada", 0, 3), Found("a", "Bob", 0, 3), Found("a", "Ada", 0, 99), Found("a", "Ada", 0, 3, 2.0)]
    model = Answered(lambda texts: [answers[:3] if "Ada" in text else answers[3:] for text in texts], "model", "1")
    done = extract(TEXTS, [model])
    assert found(done.spans) == [(10, "a", "Ada", 0, 3)]
    assert done.quarantine.column("reason").to_pylist() == [
        "value does not stand in its span",
        "span [0, 99) outside the text of 40 characters",
        "value does not stand in its span",
    ]


def test_answers_without_a_place_are_found_in_the_text():
    model = Answered(
        lambda texts: [[Found("city", "London", -1, -1), Found("city", "Rome", -1, -1)]] * len(texts), "m", "1"
    )
    done = extract(TEXTS.slice(0, 1), [model])
    assert found(done.spans) == [(10, "city", "London", 16, 22)]
    assert done.quarantine.column("value").to_pylist() == ["Rome"]


def test_answers_are_kept_and_replayed_and_another_version_asks_anew(tmp_path):
    asked = []

    def model(texts):
        asked.extend(texts)
        return [[Found("first", text[:3], 0, 3)] for text in texts]

    path = str(tmp_path / "answers" / "a.sqlite")
    first = extract(TEXTS, [Answered(model, "m", "1", path)]).spans
    again = extract(TEXTS, [Answered(model, "m", "1", path)]).spans
    replayed = extract(TEXTS, [Answered(model, "m", "1", path, replay=True)]).spans
    assert first.equals(again)
    assert first.equals(replayed)
    assert len(asked) == 2
    with pytest.raises(NotAnsweredError, match="no answer of m 2"):
        extract(TEXTS, [Answered(model, "m", "2", path, replay=True)])


def test_a_failing_model_is_asked_again_and_then_reported_and_answers_so_far_are_kept(tmp_path):
    calls = []

    def model(texts):
        calls.append(texts)
        if "new york" in texts[0]:
            raise TimeoutError("slow")
        return [[] for _ in texts]

    path = str(tmp_path / "a.sqlite")
    with pytest.raises(DataError, match="failed 3 times"):
        extract(TEXTS, [Answered(model, "m", "1", path, batch=1)])
    assert len(calls) == 4
    assert len(extract(TEXTS.slice(0, 1), [Answered(model, "m", "1", path, replay=True)]).spans) == 0


def test_extractors_that_disagree_are_votes():
    text = pa.table({"_row": [0, 1], "text": ["Washington spoke", "in Washington DC"]})
    one = Dictionary({"Washington": "person"}, label="one")
    two = Dictionary({"Washington DC": "place", "Washington": "person"}, label="two")
    three = Regex("place", "Washington(?: DC)?", label="three")
    spans = extract(text, [one, two, three]).spans
    votes = span_votes(spans)
    assert candidates(spans).column("value").to_pylist() == ["Washington", "Washington", "Washington DC"]
    said = [(v["_row"], v["source"], v["label"]) for v in votes.table().to_pylist()]
    assert said == [
        *[(0, "one", "person"), (0, "three", "place"), (0, "two", "person")],
        *[(1, "one", "person"), (1, "three", NOTHING), (1, "two", NOTHING)],
        *[(2, "one", NOTHING), (2, "three", "place"), (2, "two", "place")],
    ]
    labels = LabelModel(source="one-coin", merge_above=None).fit(votes, accuracy={"one": 0.8, "two": 0.9, "three": 0.7})
    assert found(agreed(spans, labels)) == [(0, "person", "Washington", 0, 10), (1, "place", "Washington DC", 3, 16)]


def test_a_thorough_extractor_denies_what_it_did_not_find():
    text = pa.table({"_row": [0], "text": ["a b"]})
    spans = extract(text, [Regex("x", "a", label="one"), Regex("x", "b", label="two")]).spans
    votes = span_votes(spans, thorough=["two"])
    assert [v["label"] for v in votes.table().to_pylist()] == ["x", NOTHING, "x"]
    with pytest.raises(InvalidValueError, match="three"):
        span_votes(spans, thorough=["three"])


def test_relations_between_entities_make_a_graph():
    text = pa.table({"_row": [0, 1], "text": ["Ada lives in London. Bob lives in London.", "Rome is home to Bob"]})
    spans = extract(text, [Dictionary({"Ada": "person", "Bob": "person", "London": "city", "Rome": "city"})]).spans
    patterns = [
        RelationPattern("lives in", "lives in", "person", "city"),
        RelationPattern("lives in", "is home to", "city", "person", backwards=True),
    ]
    relations = relate(text, spans, patterns)
    assert [(r["_row"], r["head"], r["tail"]) for r in relations.to_pylist()] == [
        (0, "Ada", "London"),
        (0, "Bob", "London"),
        (1, "Bob", "Rome"),
    ]
    known = graph(relations)
    assert known.nodes.column("name").to_pylist() == ["London", "Rome", "Ada", "Bob"]
    assert list(zip(known.edges["src"].to_pylist(), known.edges["dst"].to_pylist(), strict=True)) == [
        (2, 0),
        (3, 0),
        (3, 1),
    ]


def test_the_best_value_of_a_field_becomes_a_column():
    spans = extract(TEXTS, [Regex("word", "[A-Z]\\w+", 0.5), Regex("year", "[0-9]{4}")]).spans
    assert wide(spans, TEXTS).select(["word", "year"]).to_pylist() == [
        {"word": "Ada", "year": "1815"},
        {"word": None, "year": None},
        {"word": "New", "year": None},
    ]


def test_files_become_texts_and_unknown_ones_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b.html").write_text("<head><title>no</title></head><p>One &amp; two<script>x</script></p><p>three</p>")
    (tmp_path / "c.json").write_text(
        json.dumps([{"body": {"text": "x"}, "n": 1}, {"body": {"text": "y"}, "other": "z"}])
    )
    (tmp_path / "d.jsonl").write_text('{"body": {"text": "w"}}\n')
    texts = read_texts([tmp_path], fields=["body.text"])
    assert texts.column("text").to_pylist() == ["plain", "One & two\nthree", "x", "y", "w"]
    assert texts.column("part").to_pylist() == ["", "", "0 body.text", "1 body.text", "0 body.text"]
    assert texts.column("_row").to_pylist() == list(np.arange(5))
    (tmp_path / "e.doc").write_text("?")
    with pytest.raises(DataError, match=r"e\.doc"):
        read_texts([tmp_path])


def test_hidden_parts_of_a_page_are_not_text():
    assert html_text("a<br>b <b>c</b>\n d<style>p{}</style>") == "a\nb c d"


def test_a_pdf_gives_a_text_for_each_page(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "a.pdf")
    assert read_texts([tmp_path / "a.pdf"]).column("part").to_pylist() == ["page 1", "page 2"]
