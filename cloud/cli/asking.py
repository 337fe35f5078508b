"""`hearthline device set|read|call|commands|command|message`: what is asked of devices, over the API."""

import time
from typing import Annotated, Any

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call
from cloud.cli.output import Output, OutputOption, fail, read_values, show, show_one

ENDED = ("completed", "failed", "expired")
LOOK_S = 0.5
WaitOption = Annotated[int, typer.Option("--wait", min=0, max=30, help="Seconds to wait for its end.")]
ExpiresOption = Annotated[int | None, typer.Option("--expires-in-s", help="So long it may wait for its end.")]
OnlineOption = Annotated[bool, typer.Option("--only-online", help="Refuse when the device is not connected.")]


def _ask(api_url: str, key: str, path: str, body: object, wait: int, expires: int | None, only_online: bool, output: Output) -> None:
    query = {"wait_s": str(wait), "only_online": "true" if only_online else "false"}
    query |= {} if expires is None else {"expires_in_s": str(expires)}
    found = call("POST", api_url, key, path, body, query, once=True)
    _shown(found, output, waited=wait > 0)


def _shown(found: dict[str, Any], output: Output, *, waited: bool) -> None:
    """A command; the program ends with 1 when it ended badly, with 3 when it was waited for and has not ended."""
    show_one(found, output)
    state = found.get("state")
    if state in ("failed", "expired"):
        fail(f"the command {state}: code {found.get('code')}", 1)
    if waited and state not in ENDED:
        fail("it has not ended; look again with `hearthline device command`", 3)


def set_properties(
    product_key: str,
    device_name: str,
    values: Annotated[list[str], typer.Argument(help="property=value; a value that is JSON is taken as that.")],
    key: KeyOption,
    wait: WaitOption = 0,
    expires_in_s: ExpiresOption = None,
    only_online: OnlineOption = False,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a device to take property values; it is carried out at most once."""
    path = f"/v1/devices/{product_key}/{device_name}/properties"
    _ask(api_url, key, path, read_values(values), wait, expires_in_s, only_online, output)


def read_properties(
    product_key: str,
    device_name: str,
    identifiers: list[str],
    key: KeyOption,
    wait: WaitOption = 5,
    expires_in_s: ExpiresOption = None,
    only_online: OnlineOption = False,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a device for present values; not every SDK answers."""
    path = f"/v1/devices/{product_key}/{device_name}/properties/read"
    _ask(api_url, key, path, identifiers, wait, expires_in_s, only_online, output)


def call_service(
    product_key: str,
    device_name: str,
    service: str,
    key: KeyOption,
    values: Annotated[list[str] | None, typer.Argument(help="Its input: name=value.")] = None,
    wait: WaitOption = 8,
    expires_in_s: ExpiresOption = None,
    only_online: OnlineOption = False,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Call a service of a device."""
    path = f"/v1/devices/{product_key}/{device_name}/services/{service}"
    _ask(api_url, key, path, read_values(values or []), wait, expires_in_s, only_online, output)


def list_commands(
    product_key: str,
    device_name: str,
    key: KeyOption,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most, newest first.")] = 100,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """What was asked of a device, and what became of it."""
    found = call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}/commands", query={"limit": str(limit)})["items"]
    if output is Output.TABLE:
        names = ("command_id", "method", "params", "state", "created", "finished", "code", "requested_by")
        found = [{name: one[name] for name in names} for one in found]
    show(found, output)


def show_command(
    command_id: str,
    key: KeyOption,
    wait: Annotated[int, typer.Option("--wait", min=0, help="Seconds to wait for its end.")] = 0,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """What became of a command."""
    until = time.monotonic() + wait
    found = call("GET", api_url, key, f"/v1/commands/{command_id}")
    while found["state"] not in ENDED and time.monotonic() < until:
        time.sleep(LOOK_S)
        found = call("GET", api_url, key, f"/v1/commands/{command_id}")
    _shown(found, output, waited=wait > 0)


def send_message(
    product_key: str,
    device_name: str,
    topic: Annotated[str, typer.Argument(help="What stands behind /{product_key}/{device_name}/user/.")],
    text: str,
    key: KeyOption,
    qos: Annotated[int, typer.Option(min=0, max=1)] = 0,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a text to a connected device on a topic of its maker's own."""
    body = {"topic": topic, "text": text, "qos": qos}
    found = call("POST", api_url, key, f"/v1/devices/{product_key}/{device_name}/messages", body)
    show([found], output)
    if not found["delivered"]:
        fail("the device is not connected, and nothing waits for it; send it again later", 3)
