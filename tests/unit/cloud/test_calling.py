"""How the command line calls the API: what makes something is sent once more when no answer comes, with the same key."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cloud.cli.calling import call
from cloud.cli.output import read_values


class Forgetful(BaseHTTPRequestHandler):
    """Takes a request and says nothing, `silent` times; then answers."""

    keys: list[str | None]
    silent: int

    def do_POST(self) -> None:
        self.keys.append(self.headers["Idempotency-Key"])
        self.rfile.read(int(self.headers["Content-Length"]))
        if len(self.keys) <= self.silent:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def forgetful() -> Iterator[tuple[str, type[Forgetful]]]:
    handler = type("Handler", (Forgetful,), {"keys": [], "silent": 1})
    server = HTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    serving.join()
    server.server_close()


def test_an_answer_that_was_lost_is_asked_for_once_more_with_the_same_key(forgetful: tuple[str, type[Forgetful]]) -> None:
    url, handler = forgetful
    assert call("POST", url, "key", "/v1/groups", {"name": "x"}, once=True) == {}
    first, second = handler.keys
    assert first == second
    assert first is not None
    assert len(first) == 32


def test_it_is_asked_for_only_once_more_and_never_what_makes_nothing(
    forgetful: tuple[str, type[Forgetful]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, handler = forgetful
    handler.silent = 9
    with pytest.raises(SystemExit) as ended:
        call("POST", url, "key", "/v1/groups", {"name": "x"}, once=True)
    assert (ended.value.code, len(handler.keys)) == (3, 2)
    with pytest.raises(SystemExit):
        call("POST", url, "key", "/v1/groups", {"name": "x"})
    assert handler.keys[2:] == [None]
    assert "no answer" in capsys.readouterr().err


def test_a_value_without_a_name_ends_with_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_values(["3"])
    assert ended.value.code == 2
    assert "name=value" in capsys.readouterr().err
