"""The API as the command line calls it: the key, the address, pages, and what a problem becomes."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cloud.cli.output import fail

UrlOption = Annotated[str, typer.Option("--api-url", envvar="HEARTHLINE_API_URL", help="Where the API is.")]
KeyOption = Annotated[str, typer.Option("--key", envvar="HEARTHLINE_API_KEY", help="An API key; better in the variable than here.")]

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
) -> Any:
    """One call with a JSON body or a CSV one; its JSON answer, None when it has no body.

    Ends the program with the problem's detail, and what `explain` makes of its other members: exit code 3 when it is worth trying again,
    1 otherwise.
    """
    import httpx

    sent = {"Authorization": f"Bearer {key}", **(headers or {})} | ({} if csv is None else {"Content-Type": "text/csv"})
    content = None if csv is None else csv.encode()
    try:
        answer = httpx.request(method, url + path, headers=sent, json=body, content=content, params=query, timeout=30)
    except httpx.HTTPError as error:
        fail(f"no answer from {url}: {error}", 3)
    if answer.is_error:
        try:
            problem = answer.json()
            detail = problem["detail"] + ("" if explain is None else explain(problem))
        except (ValueError, KeyError, TypeError):
            detail = answer.text
        fail(f"{answer.status_code}: {detail}", 3 if answer.status_code == 503 else 1)
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
