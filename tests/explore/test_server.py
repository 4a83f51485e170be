import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from plait.config import (
    AttentionConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.explore import serve, server, write_static
from plait.explore.server import LOOPBACK, MAX_BODY, _Guard
from plait.explore.token_paths import MAX_BYTES
from plait.training import train
from tiny_corpus import tiny

JSON = {"content-type": "application/json"}


def ask(address, path, body=None, headers=None):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        given = JSON if headers is None and body is not None else headers or {}
        connection.request("POST" if body is not None else "GET", path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def question(model, text):
    return json.dumps({"model": model, "text": text}).encode()


def half_a_request(address):
    """A connection on which a body was announced and not sent whole."""
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=30)
    connection.sendall(
        b"POST /api/analyse HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b'content-length: 100\r\n\r\n{"model": 0'
    )
    return connection


def test_a_body_that_stalls_is_closed_after_a_time(address, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    with half_a_request(address) as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the request stalled" in answer


def test_fifty_parallel_requests_get_each_its_own_right_answer(address, models):
    texts = [f"walk number {i} of {i * i}" for i in range(50)]

    def answer(i):
        status, body, _ = ask(address, "/api/analyse", question(i % 3, texts[i]))
        return status, json.loads(body)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(answer, range(50)))
    for i, (status, found) in enumerate(answers):
        assert status == 200
        assert found == json.loads(json.dumps(models[i % 3].analyse(texts[i])))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b'"text"', 400, "send"),
        (b'{"model": true, "text": "a"}', 400, "send"),
        (b'{"model": 0, "text": 7}', 400, "send"),
        (b'{"model": 9, "text": "a"}', 400, "no model 9"),
        (b'{"model": 0, "text": ""}', 400, "no text"),
        (question(0, "a" * (MAX_BYTES + 1)), 413, "32,769 bytes"),
        (question(0, "7x" * 300), 413, "tokens"),
        (b" " * (MAX_BODY + 1), 413, "longer"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(address, body, status, message):
    got, answer, _ = ask(address, "/api/analyse", body)
    assert got == status
    assert message in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "192.168.1.7"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
    ],
)
def test_other_sites_get_nothing(address, headers, status):
    given = {**JSON, **headers} if "content-type" not in headers and headers else headers
    got, _, answered = ask(address, "/api/analyse", question(0, "a"), given)
    assert got == status
    assert not any(name.lower().startswith("access-control") for name in answered)


def test_whoever_opens_it_to_others_is_reached_by_address_or_own_name_only():
    open_to_all, local = _Guard(None, "0.0.0.0"), _Guard(None, LOOPBACK)  # type: ignore[arg-type]
    for host in ("192.168.1.7:8765", "[fe80::1]:80", "localhost:1", "127.0.0.1"):
        assert open_to_all._is_ours(host)
    assert not open_to_all._is_ours("evil.example:8765")
    assert [local._is_ours(h) for h in ("localhost:9", "[::1]:9", "[::1]", "10.0.0.1")] == [
        True,
        True,
        True,
        False,
    ]


def test_the_page_allows_its_own_script_alone(address):
    status, body, headers = ask(address, "/")
    assert status == 200
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', body.decode())[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert not re.search(rb"\b(src|href)=\"(?!data:|#)", body)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a real run of one step."""
    root = tmp_path_factory.mktemp("explored")
    corpus = tiny(root / "corpus")
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=16,
        context=64,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=8, top_k=2),
    )
    config = TrainConfig(
        model=model,
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=2),
        tokens=64,
        evaluation=EvaluationConfig(final_tokens=64),
    )
    train(config, root / "study" / "run", device="cpu")
    return root / "study" / "run"


def test_a_run_is_served_by_a_real_process_that_ends_on_ctrl_c(run):
    code = "import sys; from pathlib import Path; from plait.explore import serve; "
    code += "serve([Path(sys.argv[1])], port=0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = line.split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        status, body, _ = ask(address, "/api/models")
        assert status == 200
        assert json.loads(body)["models"][0]["name"] == "run"
        half_a_request(address).close()  # whoever asks may go away: no traceback in the log
        assert ask(address, "/api/analyse", question(0, "a plait"))[0] == 200
    finally:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert "Traceback" not in complaints


def test_a_port_that_is_taken_is_refused_with_the_fix(address, run):
    port = urlsplit(address).port
    with pytest.raises(ValueError, match=f"port {port} .*another --port"):
        serve([run], port=port)


def test_a_static_page_holds_hostile_text_as_data(run, tmp_path):
    hostile = "</script><script>alert(1)</script><!-- <script> \u2028"
    out = write_static([run], [hostile, "second"], tmp_path / "page.html")
    page = out.read_text(encoding="utf-8")
    blocks = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(blocks) == page.lower().count("<script") == page.lower().count("</script") == 2
    data = json.loads(blocks[0])
    assert [entry["text"] for entry in data["texts"]] == [hostile, "second"]
    assert data["texts"][1]["analyses"][0]["summary"]["bytes"] == 6
    assert "connect-src 'none'" in page
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(ValueError, match="--text"):
        write_static([run], [], out)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_static([run], ["a"], tmp_path / "nowhere" / "page.html")
