"""`hearthline quarantine`: what could not be taken, over the API: look, replay, discard."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, show

app = typer.Typer(no_args_is_help=True, help="What could not be taken, over the API.")

ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only of this reason.")]
ProductOption = Annotated[str | None, typer.Option("--product", help="Only of this product key.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only of this device name.")]
NumberArgument = Annotated[int | None, typer.Argument(help="One entry; or select with options.")]
AllOption = Annotated[bool, typer.Option("--all", help="Everything that is held.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without, say how many it would be.")]


@app.command("list")
def list_quarantine(
    key: KeyOption,
    reason: ReasonOption = None,
    product: ProductOption = None,
    device: DeviceOption = None,
    state: Annotated[str, typer.Option(help="held, replayed, discarded or every.")] = "held",
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what could not be taken, and why; oldest first."""
    query = _query(reason, product, device) | ({"every": "true"} if state == "every" else {"state": state})
    entries = pages(api_url, key, "/v1/quarantine", query)
    if output is not Output.TABLE:
        show(entries, output)
        return
    show(
        [
            {
                "id": entry["id"],
                "received": _time(entry["received"]),
                "device": f"{entry['product_key']}/{entry['device_name']}" if entry["device_name"] else entry["address"],
                "reason": entry["reason"],
                "count": entry["count"],
                "detail": entry["detail"].splitlines()[-1][:100] if entry["detail"] else "",
            }
            for entry in entries
        ],
        output,
    )


@app.command("count")
def count_quarantine(key: KeyOption, api_url: UrlOption = URL) -> None:
    """Count what is held, by reason, as JSON."""
    show([call("GET", api_url, key, "/v1/quarantine/count")], Output.JSON)


@app.command("show")
def show_entry(number: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """One entry: what was wrong, what to do, and the payload in readable form."""
    entry = call("GET", api_url, key, f"/v1/quarantine/{number}")
    if output is not Output.TABLE:
        show([entry], output)
        return
    seen = entry["count"] > 1 and f", {entry['count']} times until {_time(entry['last'])}"
    print(f"entry {entry['id']}: {entry['reason']}, {entry['state']}")
    print(f"received {_time(entry['received'])}{seen or ''} {entry['address']}".rstrip())
    print(f"from {entry['product_key']}/{entry['device_name']} on {entry['topic']}")
    print(f"\n{entry['detail']}\n\n{entry['meaning']['en']}\n{entry['meaning']['zh']}")
    print(f"\nnext: {entry['next_step']['en']}\n下一步：{entry['next_step']['zh']}\n")
    print(entry["preview"])


@app.command("replay")
def replay(
    key: KeyOption,
    number: NumberArgument = None,
    reason: ReasonOption = None,
    product: ProductOption = None,
    device: DeviceOption = None,
    everything: AllOption = False,
    yes: YesOption = False,
    api_url: UrlOption = URL,
) -> None:
    """Send messages again, as their devices sent them. They are stored and act on nothing."""
    _decide("replay", key, number, _selection(reason, product, device, everything), yes, api_url)


@app.command("discard")
def discard(
    key: KeyOption,
    number: NumberArgument = None,
    reason: ReasonOption = None,
    product: ProductOption = None,
    device: DeviceOption = None,
    everything: AllOption = False,
    yes: YesOption = False,
    api_url: UrlOption = URL,
) -> None:
    """Decide that messages are not wanted."""
    _decide("discard", key, number, _selection(reason, product, device, everything), yes, api_url)


@app.command("unreadable")
def unreadable(key: KeyOption, api_url: UrlOption = URL) -> None:
    """Messages of the platform's own stream that did not decode, as JSON; with a key of the first tenant."""
    for entry in call("GET", api_url, key, "/v1/quarantine/unreadable"):
        print(json.dumps(entry, ensure_ascii=False))


def _decide(what: str, key: str, number: int | None, selection: dict[str, Any], yes: bool, api_url: str) -> None:
    if number is not None:
        entry = call("POST", api_url, key, f"/v1/quarantine/{number}/{what}")
        print(f"entry {number} is {entry['state']}")
        return
    if not selection:
        fail("say which: an entry's number, --reason, --product, --device or --all", 2)
    if not yes:
        query = {name: str(value) for name, value in selection.items() if name != "all"}
        found = len(pages(api_url, key, "/v1/quarantine", query))
        print(f"{found} entries; say --yes to {what} them", file=sys.stderr)
        return
    done = 0
    while True:
        outcome = call("POST", api_url, key, f"/v1/quarantine/{what}", selection)
        done += outcome["done"]
        if not outcome["left"] or not outcome["done"]:
            break
    print(f"{done} entries: {what} done")
    for entry_id, why in outcome["failed"].items():
        print(f"entry {entry_id} stays: {why}", file=sys.stderr)
    if outcome["failed"]:
        raise SystemExit(1)


def _selection(reason: str | None, product: str | None, device: str | None, everything: bool) -> dict[str, Any]:
    return {**_query(reason, product, device), **({"all": True} if everything else {})}


def _query(reason: str | None, product: str | None, device: str | None) -> dict[str, str]:
    given = {"reason": reason, "product_key": product, "device_name": device}
    return {name: value for name, value in given.items() if value is not None}


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
