"""What the API answers to errors that no route foresees."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from cloud.foundation.problem_answers import install


@pytest.mark.parametrize(
    ("statement", "status", "kind"),
    [
        ("INSERT INTO held VALUES (1, 0)", 503, "try-again"),
        ("INSERT INTO held VALUES (2, NULL)", 500, "bug"),
    ],
)
def test_a_request_that_lost_a_race_may_be_sent_again_and_a_bug_is_called_one(statement: str, status: int, kind: str) -> None:
    app, engine = FastAPI(), create_engine("sqlite://")
    install(app)

    @app.post("/")
    def enter() -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE held (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)"))
            connection.execute(text("INSERT INTO held VALUES (1, 0)"))
            connection.execute(text(statement))

    answer = TestClient(app, raise_server_exceptions=False).post("/")
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:hearthline:problem:{kind}")
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    engine.dispose()
