"""What people look at: self-contained pages, one set of charts, one look, one small live server.

Knows no other package: callers hand in plain data.
"""

from stepwell.view import charts
from stepwell.view.page import Fact, Facts, Field, Form, Page, Preformatted, Section, Table, Text
from stepwell.view.server import Server

__all__ = [
    "Fact",
    "Facts",
    "Field",
    "Form",
    "Page",
    "Preformatted",
    "Section",
    "Server",
    "Table",
    "Text",
    "charts",
]
