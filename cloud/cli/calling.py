"""The API as the command line calls it: the key, the address, pages, and what a problem becomes."""

import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cloud.cli.output import fail

UrlOption = Annotated[str, typer.Option("--api-url", envvar="HEARTHLINE_API_URL", help="Where the API is.")]
KeyOption = Annotated[str, typer.Option("--key", envvar="HEARTHLINE_API_KEY", help="An API key; better in the variable than here.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="So many at most, newest first.")]

TIMEOUT_S = 60.0  # the longest that the API lets a call wait is 30 s
URL = "http://127.0.0.1:8080"


def call(
    method: str,
    url: str,
    key: str,
    path: str,
    body: object = None,
    query: dict[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    explain: Callable[[dict[str, Any]], str] | None = None,
    csv: str | None = None,
    data: bytes | None = None,
    once: bool = False,
) -> Any:
    """One call with a body in JSON, CSV, or as it is (`data`); its JSON answer, None when it has no body.

    With `once` it makes something: when no answer comes, it is sent once more with the same Idempotency-Key, so that nothing is made twice.

    Ends the program with the problem's detail, and what `explain` makes of its other members: exit code 3 when it is worth trying again,
    1 otherwise.
    """
    import httpx

    sent = {"Authorization": f"Bearer {key}", **(headers or {})} | ({} if csv is None else {"Content-Type": "text/csv"})
    content = data if csv is None else csv.encode()
    if data is not None:
        sent["Content-Type"] = "application/octet-stream"
    if once:
        sent["Idempotency-Key"] = secrets.token_hex(16)
    answer = None
    for last in (False, True) if once else (True,):
        try:
            answer = httpx.request(method, url + path, headers=sent, json=body, content=content, params=query, timeout=TIMEOUT_S)
            break
        except httpx.InvalidURL as error:
            fail(f"--api-url {url}: {error}", 2)
        except httpx.HTTPError as error:
            if last:
                fail(f"no answer from {url}: {error}; is the platform running there? --api-url or HEARTHLINE_API_URL says where", 3)
    assert answer is not None
    if answer.is_error:
        try:
            problem = answer.json()
            detail = problem["detail"] + ("" if explain is None else explain(problem))
        except (ValueError, KeyError, TypeError):
            detail = answer.text
        fail(f"{answer.status_code}: {detail}", 3 if answer.status_code == 503 or "retry-after" in answer.headers else 1)
    if answer.headers.get("content-type", "").startswith("application/octet-stream"):
        return answer.content
    return answer.json() if answer.content else None


def pages(url: str, key: str, path: str, query: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    items: list[dict[str, Any]] = []
    query = {"limit": "1000", **(query or {})}
    while True:
        page = call("GET", url, key, path, query=query)
        items += page["items"]
        if page["next"] is None:
            return items
        query["cursor"] = page["next"]


def newest(url: str, key: str, path: str, limit: int, query: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The first page of a list that begins with the newest."""
    items: list[dict[str, Any]] = call("GET", url, key, path, query={"limit": str(limit), **(query or {})})["items"]
    return items
