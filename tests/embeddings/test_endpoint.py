import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from panmodal.embeddings import endpoint as module
from panmodal.embeddings.endpoint import Endpoint, Secret
from panmodal.errors import InputError

KEY = "sk-" + "Tr0ub4dor" * 4
TEXTS = {f"G{k}": f"text number {k}" for k in range(7)} | {"same": "text number 3"}


def vector(text, dims=4):
    return [float(sum(map(ord, text)) % (d + 7)) + 0.5 for d in range(dims)]


def plain_answer(asked):
    data = [{"object": "embedding", "index": k, "embedding": vector(t)} for k, t in enumerate(asked["input"])]
    return {"object": "list", "data": data, "model": "served-1", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


class Service:
    """A server whose answers are scripted: each is (status, headers, body) or a function of the request."""

    def __init__(self):
        self.script, self.seen = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.seen.append((self.path, dict(self.headers), asked))
                step = service.script.pop(0) if service.script else plain_answer
                if step == "hang":
                    time.sleep(1.0)
                if step in ("drop", "hang"):
                    self.close_connection = True
                    return
                status, headers, body = (200, {}, step(asked)) if callable(step) else step
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self):
                service.seen.append((self.path, dict(self.headers), None))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def service(monkeypatch):
    made = Service()
    made.waits = []
    monkeypatch.setattr(module, "sleep", made.waits.append)
    monkeypatch.setenv("PANMODAL_TEST_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield made
    made.server.shutdown()
    made.server.server_close()


def ask(service, texts=TEXTS, **options):
    return Endpoint.at(service.url, "small", **{"batch": 3, **options}).embed(texts)


def test_vectors_come_back_in_the_order_of_the_texts(service):
    calls = []
    answer = Endpoint.at(service.url, "small", batch=3).embed(TEXTS, progress=lambda *now: calls.append(now))
    np.testing.assert_array_equal(answer.vectors, np.array([vector(t) for t in TEXTS.values()], np.float32))
    assert (answer.model, answer.tokens, answer.requests) == ("served-1", 15, 3)
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert all(asked["model"] == "small" and "dimensions" not in asked for _, _, asked in service.seen)
    assert sum(len(asked["input"]) for _, _, asked in service.seen) == 7  # equal texts once
    assert not any("Authorization" in headers for _, headers, _ in service.seen)


@pytest.mark.parametrize(
    ("end", "path"),
    [("", "/v1/embeddings"), ("/", "/v1/embeddings"), ("/v1", "/v1/embeddings"), ("/v1/", "/v1/embeddings"),
     ("/v1/embeddings", "/v1/embeddings"), ("/v1/embeddings/", "/v1/embeddings"), ("/api/openai", "/api/openai/embeddings"),
     ("/x?api-version=2024", "/x/embeddings?api-version=2024")],
)  # fmt: skip
def test_addresses(service, end, path):
    Endpoint.at(service.url + end, "small").embed({"a": "b"})
    assert service.seen[0][0] == path


def test_the_key_is_sent_and_shown_nowhere(service):
    endpoint = Endpoint.at(service.url, "small", key_env="PANMODAL_TEST_KEY")
    endpoint.embed({"a": "b"})
    assert service.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(endpoint) + str(vars(endpoint)) + repr(Secret(KEY))
    service.script = [
        (401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}})
    ]
    with pytest.raises(InputError, match=r"answered 401 .*\*\*\*.*Is the key valid") as caught:
        endpoint.embed({"a": "b"})
    assert KEY not in str(caught.value) and caught.value.__suppress_context__ and service.waits == []
    service.script = [(200, {}, f"<{KEY}>".encode())]
    with pytest.raises(InputError, match="no JSON") as caught:
        endpoint.embed({"a": "b"})
    assert KEY not in str(caught.value)


def test_a_service_that_wants_a_key(service):
    service.script = [(401, {}, b"who are you?")]
    with pytest.raises(InputError, match=r"answered 401 \(who are you\?\).*name as key_env"):
        ask(service)


def test_redirects_are_not_followed(service):
    for code in (301, 302, 307, 308):
        service.script, service.seen[:] = [(code, {"Location": f"{service.url}/elsewhere"}, b"")], []
        with pytest.raises(InputError, match=rf"answered {code} .*redirects, which is not followed"):
            ask(service, key_env="PANMODAL_TEST_KEY")
        assert len(service.seen) == 1


def test_busy_services_are_asked_again(service):
    service.script = [
        (429, {"Retry-After": "7"}, {"error": {"message": "slow down"}}), (503, {}, b""), "drop", (500, {}, b"oops"),
        (429, {"Retry-After": "soon"}, b""),
    ]  # fmt: skip
    answer = ask(service, {"a": "b"})
    assert service.waits == [7.0, 2.0, 4.0, 8.0, 16.0] and answer.requests == 1 and len(service.seen) == 6


def test_retry_after_may_be_a_date(service, monkeypatch):
    monkeypatch.setattr(module, "clock", lambda: 1_700_000_000.0)
    service.script = [
        (429, {"Retry-After": formatdate(1_700_000_042, usegmt=True)}, b""),
        (429, {"Retry-After": formatdate(1_600_000_000, usegmt=True)}, b""),
    ]
    ask(service, {"a": "b"})
    assert service.waits == [42.0, 0.0]


def test_patience_ends(service):
    service.script = [(503, {}, b"")] * 3
    with pytest.raises(InputError, match=r"answered 503 .*, 3 times. Try again later"):
        ask(service, retries=2)
    assert service.waits == [1.0, 2.0]
    service.script = [(429, {"Retry-After": "3600"}, b"")]
    with pytest.raises(InputError, match="asks to wait 3600 s"):
        ask(service)
    service.script = [(429, {}, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})]
    with pytest.raises(InputError, match="insufficient_quota"):
        ask(service)


def test_no_answer_in_time(service):
    service.script = ["hang"]
    with pytest.raises(InputError, match=r"no answer .*timed out.*1 times"):
        ask(service, retries=0, timeout=0.1)


def test_nobody_there():
    with pytest.raises(InputError, match=r"no answer .*Is the service running"):
        Endpoint.at("http://127.0.0.1:9", "small").embed({"a": "b"})


@pytest.mark.parametrize(
    ("code", "hint"), [(400, "Check model, dims"), (404, "Check the address"), (418, "Check model")]
)
def test_other_refusals(service, code, hint):
    service.script = [(code, {}, {"error": "no such thing"})]
    with pytest.raises(InputError, match=rf"answered {code} \(no such thing\)\. {hint}"):
        ask(service)
    assert service.waits == []


def changed(**change):
    """An answer to two texts with something wrong in it."""

    def answer(asked):
        made = plain_answer(asked)
        for name, value in change.items():
            if name == "data":
                made["data"] = value
            else:
                made["data"][1][name] = value
        return made

    return answer


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ((200, {}, b"<html>"), "no JSON: b'<html>'"),
        ((200, {}, [1]), "no list 'data'"),
        ((200, {}, {"data": [1, 2]}), "no list 'data' of objects"),
        (changed(data=[{"index": 0, "embedding": [1.0]}]), "1 vectors for 2 texts"),
        (changed(index=0), "'index' is '0', '0' instead of 0 to 1"),
        (changed(index=None), "'index' is '0', 'None'"),
        (changed(index=True), "'index' is '0', 'True'"),
        (changed(embedding=[1.0]), "lists of several lengths"),
        (changed(embedding=[]), "no list of numbers"),
        (changed(embedding="AAAA"), "no list of numbers"),
        (changed(embedding=[1, 2, 3, None]), "no list of numbers"),
        (changed(embedding=[1, 2, 3, True]), "no list of numbers"),
        (changed(embedding=[1, 2, 3, float("nan")]), "not finite"),
        (changed(embedding=[1, 2, 3, 1e300]), "not finite"),
    ],
)
def test_answers_of_another_shape(service, step, match):
    service.script = [step]
    with pytest.raises(InputError, match=match):
        ask(service, {"a": "b", "c": "d"})


def test_answers_out_of_order_are_sorted_by_index(service):
    service.script = [lambda asked: plain_answer(asked) | {"data": plain_answer(asked)["data"][::-1]}]
    texts = {"a": "one", "b": "three", "c": "seventeen"}
    np.testing.assert_array_equal(
        ask(service, texts).vectors, np.array([vector(t) for t in texts.values()], np.float32)
    )


def test_lengths_must_agree_between_requests(service):
    service.script = [
        plain_answer,
        lambda a: {"data": [{"index": k, "embedding": [1.0]} for k in range(len(a["input"]))]},
    ]
    with pytest.raises(InputError, match="vectors of 1 and of 4 numbers"):
        ask(service)


def test_dims_are_asked_for_and_checked(service):
    assert ask(service, dims=4).vectors.shape == (8, 4)
    assert service.seen[0][2]["dimensions"] == 4
    with pytest.raises(InputError, match="vectors of 4 numbers, not 3"):
        ask(service, dims=3)


def test_answers_without_usage_or_model(service):
    service.script = [lambda asked: {"data": plain_answer(asked)["data"], "usage": None}]
    answer = ask(service, {"a": "b"})
    assert (answer.model, answer.tokens) == ("small", 0)


def test_requests_are_limited_in_characters(service, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_CHARACTERS", 30)
    ask(service, batch=100)
    assert [len(asked["input"]) for _, _, asked in service.seen] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("url", "options", "match"),
    [
        ("ftp://host/v1", {}, "must begin with http"),
        ("file:///etc/passwd", {}, "must begin with http"),
        ("host/v1", {}, "must begin with http"),
        ("http:///v1", {}, "name a host"),
        ("http://[::1/v1", {}, "no address"),
        ("http://host:99999", {}, "no address"),
        ("https://user:secret@host/v1", {}, "user or password"),
        ("https://host/v1?key=secret", {}, "parameters .'key'.*Only api-version"),
        ("http://example.org/v1", {"key_env": "PANMODAL_TEST_KEY"}, "not sent without encryption"),
        ("https://example.org/v1", {"key_env": "PANMODAL_NO_KEY"}, "PANMODAL_NO_KEY that key_env names is not set"),
        ("https://example.org/v1", {"key_env": "PANMODAL_BAD_KEY"}, "characters that no key has"),
        ("https://api.openai.com/v1", {}, "OPENAI_API_KEY that key_env names is not set"),
        ("https://host", {"batch": 0}, "batch is 0"),
        ("https://host", {"retries": -1}, "retries -1"),
        ("https://host", {"timeout": 0.0}, "timeout 0"),
        ("https://host", {"dims": 0}, "dims 0"),
    ],
)
def test_settings_that_cannot_be_used(monkeypatch, url, options, match):
    monkeypatch.setenv("PANMODAL_TEST_KEY", KEY)
    monkeypatch.setenv("PANMODAL_BAD_KEY", "a\nb: c")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=match) as caught:
        Endpoint.at(url, "small", **options)
    assert "secret" not in str(caught.value)


def test_model_must_be_named():
    with pytest.raises(InputError, match="model is empty"):
        Endpoint.at("https://host", " ")


@pytest.mark.parametrize("given", [KEY, KEY.replace("-", "_"), "abcdef0123456789" * 2])
def test_a_key_given_in_place_of_its_variable_is_not_repeated(given):
    with pytest.raises(InputError) as caught:
        Endpoint.at("https://host", "small", key_env=given)
    assert given not in str(caught.value)


def test_the_key_of_openai_goes_nowhere_else(service, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Endpoint.at("https://api.openai.com/v1", "small").key.reveal() == KEY
    for url in (service.url, "https://api.openai.com.example.org/v1", "https://openai.example.org"):
        assert Endpoint.at(url, "small").key.reveal() == ""


@pytest.mark.parametrize(("texts", "match"), [({}, "no texts"), ({"a": "b", "c": " "}, "'c' are empty")])
def test_texts_that_cannot_be_sent(service, texts, match):
    with pytest.raises(InputError, match=match):
        ask(service, texts)
    assert service.seen == []
