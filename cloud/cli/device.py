"""`hearthline device`: devices, over the API."""

from typing import Annotated, Any

import typer

from cloud.cli import asking, identity
from cloud.cli.calling import URL, KeyOption, LimitOption, UrlOption, call, newest, pages
from cloud.cli.importing import import_devices
from cloud.cli.output import Output, OutputOption, fail, read_values, show, show_one

app = typer.Typer(no_args_is_help=True, help="Devices, over the API.")
app.command("import")(import_devices)
app.command("rotate")(identity.rotate_secret)
app.command("accept")(identity.accept)
app.command("reset")(identity.reset_registration)
app.command("identity")(identity.show_identity)
app.command("set")(asking.set_properties)
app.command("read")(asking.read_properties)
app.command("call")(asking.call_service)
app.command("commands")(asking.list_commands)
app.command("command")(asking.show_command)
app.command("message")(asking.send_message)

SiteArgument = Annotated[str, typer.Argument(help="Home or line; made when it is new.")]


@app.command("create")
def create_device(
    product_key: str,
    device_name: str,
    key: KeyOption,
    site: Annotated[str | None, typer.Option(help="Home or line; made when it is new.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a device; its secret is shown this once."""
    body = {"device_name": device_name, "site": site}
    show([call("POST", api_url, key, f"/v1/products/{product_key}/devices", body, once=True)], output)


@app.command("list")
def list_devices(product_key: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List a product's devices."""
    show(pages(api_url, key, f"/v1/products/{product_key}/devices"), output)


@app.command("search")
def search_devices(
    key: KeyOption,
    words: Annotated[str, typer.Argument(help="Stands in the name, nickname, product key or site.")] = "",
    product_key: Annotated[str | None, typer.Option("--product")] = None,
    site: Annotated[str | None, typer.Option(help="Home or line.")] = None,
    group: Annotated[int | None, typer.Option(help="The id of a group.")] = None,
    tag: Annotated[str | None, typer.Option(help="A key, or key=value.")] = None,
    state: Annotated[str | None, typer.Option(help="manufactured, activated, claimed, disabled or retired.")] = None,
    online: Annotated[bool | None, typer.Option("--online/--offline", help="Only those that are connected, or are not.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find devices of all products by what is known of them."""
    asked: dict[str, Any] = {"q": words, "product_key": product_key, "site": site, "group": group, "tag": tag, "state": state}
    query = {name: str(value) for name, value in asked.items() if value not in (None, "")}
    if online is not None:
        query["online"] = "true" if online else "false"
    show(pages(api_url, key, "/v1/devices", query), output)


@app.command("show")
def show_device(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.JSON) -> None:
    """One device with its reported shadow; as JSON, unless told otherwise."""
    show_one(call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}"), output)


@app.command("shadow")
def show_shadow(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """What is desired of a device, what it reported, and what it still has to change."""
    show_shadow_of(call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}/shadow"), output)


def show_shadow_of(shadow: dict[str, Any], output: Output) -> None:
    """A shadow as a table: a line a property."""
    if output is not Output.TABLE:
        show([shadow], output)
        return
    names = sorted({*shadow["desired"], *shadow["reported"]})
    rows = [{"property": name, **{part: shadow[part].get(name) for part in ("desired", "reported", "delta")}} for name in names]
    show(rows, output)


@app.command("desire")
def desire(
    product_key: str,
    device_name: str,
    values: Annotated[list[str], typer.Argument(help="property=value; the value null takes one back.")],
    key: KeyOption,
    version: Annotated[int | None, typer.Option(help="Only if the shadow still has this version.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what properties should be; a device that is away is told when it comes."""
    body: dict[str, Any] = {"desired": read_values(values)} | ({} if version is None else {"version": version})
    show_shadow_of(call("PATCH", api_url, key, f"/v1/devices/{product_key}/{device_name}/shadow", body), output)


@app.command("tags")
def tags(
    product_key: str,
    device_name: str,
    key: KeyOption,
    changes: Annotated[list[str] | None, typer.Argument(help="key=value sets a tag; without any, they are shown.")] = None,
    delete: Annotated[list[str] | None, typer.Option(help="Delete the tag of this key.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show, set and delete tags."""
    path = f"/v1/devices/{product_key}/{device_name}/tags"
    wanted: dict[str, str | None] = dict.fromkeys(delete or [])
    for change in changes or []:
        name, equals, text = change.partition("=")
        if not equals:
            fail(f"{change}: write it as key=value, or --delete {change}", 2)
        wanted[name] = text
    found = call("PATCH", api_url, key, path, {"tags": wanted}) if wanted else call("GET", api_url, key, path)
    show([{"key": name, **tag} for name, tag in found["tags"].items()], output)


@app.command("log")
def show_log(
    product_key: str,
    device_name: str,
    key: KeyOption,
    limit: LimitOption = 100,
    mode: Annotated[bool | None, typer.Option("--on/--off", help="Say whether the device is to post its log, and show nothing.")] = None,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """What a device wrote about itself; or whether it is to."""
    path = f"/v1/devices/{product_key}/{device_name}/log"
    if mode is not None:
        call("PUT", api_url, key, f"{path}/mode", {"mode": int(mode)})
        return
    show(newest(api_url, key, path, limit), output)


@app.command("audit")
def show_audit(
    product_key: str,
    device_name: str,
    key: KeyOption,
    limit: LimitOption = 100,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Who did what to a device."""
    show(newest(api_url, key, f"/v1/devices/{product_key}/{device_name}/audit", limit), output)


@app.command("events")
def show_events(
    product_key: str,
    device_name: str,
    key: KeyOption,
    event: Annotated[str | None, typer.Option(help="Of this event only.")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Not before then (RFC 3339).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Before then.")] = None,
    limit: LimitOption = 100,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """What a device announced."""
    query = {name: text for name, text in (("event", event), ("from", begin), ("to", end)) if text is not None}
    show(newest(api_url, key, f"/v1/devices/{product_key}/{device_name}/events", limit, query), output)


@app.command("modules")
def show_modules(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Which firmware a device runs, in its own words."""
    found = call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}/modules")["modules"]
    show([{"module": name, **one} for name, one in found.items()], output)


def _move(api_url: str, key: str, device: tuple[str, str], move: str, output: Output, site: str | None = None) -> None:
    body = {} if site is None else {"site": site}
    found = call("POST", api_url, key, f"/v1/devices/{device[0]}/{device[1]}/{move}", body)
    show([{name: found[name] for name in ("product_key", "device_name", "state", "site")}], output)


@app.command("disable")
def disable(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Lock a device out until it is enabled; its session ends."""
    _move(api_url, key, (product_key, device_name), "disable", output)


@app.command("enable")
def enable(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Let a disabled device in again."""
    _move(api_url, key, (product_key, device_name), "enable", output)


@app.command("claim")
def claim(
    product_key: str, device_name: str, site: SiteArgument, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """Bind an activated device to a home or a line."""
    _move(api_url, key, (product_key, device_name), "claim", output, site)


@app.command("bind")
def bind(
    token: Annotated[str, typer.Argument(help="What the device shows; it counts for ten minutes, and once.")],
    site: SiteArgument,
    key: KeyOption,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Claim the device that shows this token."""
    show([call("POST", api_url, key, "/v1/devices/bind", {"token": token, "site": site}, once=True)], output)


@app.command("transfer")
def transfer(
    product_key: str, device_name: str, site: SiteArgument, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """Bind a claimed device to another home or line."""
    _move(api_url, key, (product_key, device_name), "transfer", output, site)


@app.command("unclaim")
def unclaim(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Free a device of its home or line."""
    _move(api_url, key, (product_key, device_name), "unclaim", output)


@app.command("retire")
def retire(
    product_key: str,
    device_name: str,
    key: KeyOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: it is for good.")] = False,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a device's life for good; its history stays."""
    if not yes:
        fail(f"{product_key}/{device_name} would never be let in again; say --yes to retire it", 1)
    _move(api_url, key, (product_key, device_name), "retire", output)
