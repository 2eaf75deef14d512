"""Fewer bytes at a declared error: a codec for each column, rows decoded as they are gathered, products on codes."""

from stepwell.prepare.compress.codecs import (
    BitPack,
    Codec,
    Distinct,
    EqualRank,
    Error,
    Fitted,
    Float16,
    LloydMax,
    Plain,
    Uniform,
    codecs,
)
from stepwell.prepare.compress.rows import CompressedRows, Tolerance, choose, compress
from stepwell.prepare.compress.rows import layout_of as layout_of
from stepwell.prepare.compress.sketch import QuantileSketch
from stepwell.prepare.compress.toc import TupleCodes, TupleLinear
from stepwell.prepare.compress.tuple_rows import TupleRows

__all__ = [
    "BitPack",
    "Codec",
    "CompressedRows",
    "Distinct",
    "EqualRank",
    "Error",
    "Fitted",
    "Float16",
    "LloydMax",
    "Plain",
    "QuantileSketch",
    "Tolerance",
    "TupleCodes",
    "TupleLinear",
    "TupleRows",
    "Uniform",
    "choose",
    "codecs",
    "compress",
]
