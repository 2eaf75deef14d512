"""The live server: whom it answers, what it refuses, and what it shows."""

import http.client
import json
import urllib.request
from urllib.parse import urlsplit

import pytest

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.view import Page, Section, Server, Text

SEEN = []


def say(body):
    SEEN.append(body)
    return {"seen": len(SEEN)}


def refuse(body):
    raise DataError("the label", "is unknown", "yes or no", "choose one")


def fail(body):
    raise RuntimeError("a secret detail")


@pytest.fixture
def server():
    pages = {"/": lambda: Page("Live", sections=[Section("Now", [Text("hello")])])}
    with Server(pages, {"say": say, "refuse": refuse, "fail": fail}, max_body_bytes=100) as running:
        yield running


def ask(server, method="GET", path="/", body=None, token=True, **headers):
    """Send one request and return (status, headers, text)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    found = {"X-Stepwell-Token": server.token} if token else {}
    if body is not None:
        found["Content-Type"] = "application/json"
    found.update({name.replace("_", "-"): value for name, value in headers.items()})
    connection.request(method, path, body=body, headers=found)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text


def test_the_printed_address_opens_the_page_and_leaves_the_token_out_of_it(server):
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(server.url, timeout=10) as answer:
        text = answer.read().decode()
        assert urlsplit(answer.url).query == ""
    assert "hello" in text
    assert server.token not in text
    with opener.open(f"http://127.0.0.1:{server.port}/plotly.js", timeout=10) as answer:
        assert b"plotly.js" in answer.read()[:500]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/plotly.js"), ("POST", "/action/say")])
def test_without_the_token_nothing_is_answered(server, method, path):
    assert ask(server, method, path, body="{}", token=False)[0] == 403
    assert ask(server, method, path, body="{}", token=False, X_Stepwell_Token="wrong")[0] == 403
    assert ask(server, method, path, body="{}", token=False, X_Stepwell_Token="w\u00e9")[0] == 403


def test_another_host_or_origin_is_refused_even_with_the_token(server):
    assert ask(server, Host="evil.example:80")[0] == 403
    assert ask(server, Host=f"evil.example:{server.port}")[0] == 403
    assert ask(server, "POST", "/action/say", "{}", Origin="http://evil.example")[0] == 403
    assert ask(server, "POST", "/action/say", "{}", Origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_a_body_beyond_the_bound_is_refused_unread(server):
    status, _, text = ask(server, "POST", "/action/say", json.dumps("a" * 200))
    assert (status, "100 bytes" in text) == (413, True)


def test_a_body_that_is_no_json_is_refused(server):
    assert ask(server, "POST", "/action/say", "{")[0] == 400
    assert ask(server, "POST", "/action/say", "{}", Content_Type="text/plain")[0] == 415


def test_an_action_gets_the_body_and_answers_json(server):
    status, _, text = ask(server, "POST", "/action/say", '{"label": "yes"}')
    assert (status, SEEN[-1]) == (200, {"label": "yes"})
    assert json.loads(text)["seen"] == len(SEEN)


def test_our_own_errors_reach_the_reader_and_others_do_not(server):
    status, _, text = ask(server, "POST", "/action/refuse", "{}")
    assert (status, "choose one" in text) == (400, True)
    status, _, text = ask(server, "POST", "/action/fail", "{}")
    assert (status, "secret" in text) == (500, False)


def test_unknown_pages_and_actions_are_named(server):
    assert ask(server, path="/nowhere")[0] == 404
    assert ask(server, "POST", "/action/nothing", "{}")[0] == 404


def test_a_redirect_never_leaves_the_server(server):
    status, headers, _ = ask(server, path=f"//evil.example/?token={server.token}")
    assert (status, headers["Location"]) == (303, "/evil.example/")


def test_every_answer_forbids_sniffing_framing_and_caching(server):
    _, headers, _ = ask(server)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_it_listens_on_the_loopback_address_and_frees_its_port():
    server = Server({"/": lambda: Page("a")})
    assert urlsplit(server.url).hostname == "127.0.0.1"
    server.start()
    server.stop()
    with Server({"/": lambda: Page("a")}, port=server.port):
        pass


def test_wrong_settings_are_refused():
    with pytest.raises(InvalidValueError, match="start with"):
        Server({"home": lambda: Page("a")})
    with pytest.raises(InvalidValueError, match="max_body_bytes"):
        Server({}, max_body_bytes=0)
