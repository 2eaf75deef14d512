"""Extract: from texts to rows that say where each value stands, by rules, dictionaries and models that may disagree."""

from stepwell.prepare.extract.answers import Answered
from stepwell.prepare.extract.extractors import Dictionary, Grammar, Regex
from stepwell.prepare.extract.relations import RelationPattern, graph, relate
from stepwell.prepare.extract.sources import read_texts
from stepwell.prepare.extract.spans import Extractor, Found, extract
from stepwell.prepare.extract.votes import agreed, span_votes

__all__ = [
    "Answered",
    "Dictionary",
    "Extractor",
    "Found",
    "Grammar",
    "Regex",
    "RelationPattern",
    "agreed",
    "extract",
    "graph",
    "read_texts",
    "relate",
    "span_votes",
]
