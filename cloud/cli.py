"""`hearthline`: run the platform, administer tenants on its data directory, and use its API. Data on stdout, messages on stderr.

Exit codes: 0 done, 1 refused (change something first), 2 wrong usage, 3 try again later.
"""

import enum
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from protocols.errors import PlatformError, Refused, TryAgain

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="The Hearthline platform.", pretty_exceptions_enable=False
)
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants and API keys, in the data directory.")
product_app = typer.Typer(no_args_is_help=True, help="Products, over the API.")
device_app = typer.Typer(no_args_is_help=True, help="Devices, over the API.")
quarantine_app = typer.Typer(no_args_is_help=True, help="What could not be taken, over the API.")
for _name, _app in (("tenant", tenant_app), ("product", product_app), ("device", device_app), ("quarantine", quarantine_app)):
    app.add_typer(_app, name=_name)


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


class Role(enum.StrEnum):
    CORE = "core"
    ACCESS = "access"
    INGEST = "ingest"


DataOption = Annotated[Path, typer.Option("--data", envvar="HEARTHLINE_DIR", help="Data directory.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table or json.")]
UrlOption = Annotated[str, typer.Option("--api-url", envvar="HEARTHLINE_API_URL", help="Where the API is.")]
KeyOption = Annotated[str, typer.Option("--key", envvar="HEARTHLINE_API_KEY", help="An API key; better in the variable than here.")]

_DATA = Path("hearthline-data")
_URL = "http://127.0.0.1:8080"


@app.command()
def up(
    data: DataOption = _DATA,
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, envvar="HEARTHLINE_MQTT_PORT", help="0 takes any free port.")] = 1883,
    api_port: Annotated[int, typer.Option(min=0, max=65535, envvar="HEARTHLINE_API_PORT", help="0 takes any free port.")] = 8080,
    host: Annotated[str, typer.Option(envvar="HEARTHLINE_HOST", help="Address to listen on.")] = "127.0.0.1",
    ready_json: Annotated[bool, typer.Option("--ready-json", help="When ready, print one line of JSON on stdout.")] = False,
) -> None:
    """Run the whole platform until SIGTERM or Ctrl-C. An empty data directory is initialised first."""
    import asyncio

    from cloud.app import Ready, run_up
    from cloud.foundation import logs
    from cloud.settings import Settings

    def announce(ready: Ready) -> None:
        if ready_json:
            line = {"mqtt_port": ready.mqtt_port, "api_url": ready.api_url, "admin_key": ready.admin_key}
            print(json.dumps(line), flush=True)
            return
        print(f"MQTT on port {ready.mqtt_port}, API at {ready.api_url} (routes at {ready.api_url}/docs)", file=sys.stderr)
        if ready.admin_key:
            print(f"The key of the tenant `default`, shown this once: {ready.admin_key}", file=sys.stderr)

    settings = Settings.read().for_directory(data)
    settings = settings.model_copy(update={"mqtt_port": mqtt_port, "api_port": api_port, "host": host})
    logs.configure("up", settings.log_level)
    os.umask(0o077)  # what the platform keeps is for its own user
    asyncio.run(run_up(settings, announce))


@app.command()
def run(
    role: Role,
    data: DataOption = _DATA,
    listener_fd: Annotated[int | None, typer.Option(help="A listening socket handed over by `up`.", hidden=True)] = None,
) -> None:
    """Run one role until SIGTERM; NATS is that of `hearthline up` on the same directory, or HEARTHLINE_NATS_URL."""
    import socket

    from cloud.app import run_role
    from cloud.settings import Settings

    listener = None if listener_fd is None else socket.socket(fileno=listener_fd)
    run_role(role.value, Settings.read().for_directory(data), listener)
    # Everything is closed. Taking the interpreter apart object by object can take a second that the supervisor does not have.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@tenant_app.command("create")
def create_tenant(name: str, data: DataOption = _DATA, output: OutputOption = Output.TABLE) -> None:
    """Make a tenant and its first API key, which is shown this once."""
    from cloud.tenancy import service

    with _database(data).system() as work:
        tenant = service.create_tenant(work, name)
        key = service.create_api_key(work, tenant.tenant_id, "admin")
        work.commit()
    _show([{"tenant": name, "key": key}], output)


@tenant_app.command("list")
def list_tenants(data: DataOption = _DATA, output: OutputOption = Output.TABLE) -> None:
    """List the tenants."""
    from cloud.tenancy import service

    with _database(data).system_reading() as work:
        _show([{"tenant": tenant.name, "created": tenant.created_ms} for tenant in service.list_tenants(work)], output)


@tenant_app.command("key")
def create_key(
    tenant: str,
    name: Annotated[str, typer.Option(help="What it is for.")] = "admin",
    data: DataOption = _DATA,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make another API key for a tenant; it is shown this once."""
    from cloud.tenancy import service

    with _database(data).system() as work:
        key = service.create_api_key(work, service.tenant_id(work, tenant), name)
        work.commit()
    _show([{"tenant": tenant, "name": name, "key": key}], output)


@tenant_app.command("keys")
def list_keys(tenant: str, data: DataOption = _DATA, output: OutputOption = Output.TABLE) -> None:
    """List a tenant's keys by prefix."""
    from cloud.tenancy import service

    with _database(data).system_reading() as work:
        keys = service.list_api_keys(work, service.tenant_id(work, tenant))
    _show([{"prefix": k.prefix, "name": k.name, "created": k.created_ms, "revoked": k.revoked_ms} for k in keys], output)


@tenant_app.command("revoke")
def revoke_key(prefix: str, data: DataOption = _DATA) -> None:
    """Revoke the key with this prefix, from the next request on."""
    from cloud.tenancy import service

    with _database(data).system() as work:
        service.revoke_api_key(work, prefix)
        work.commit()


@product_app.command("create")
def create_product(
    name: str,
    tsl: Annotated[Path, typer.Argument(help="The thing model, a TSL JSON file; - reads stdin.")],
    key: KeyOption,
    api_url: UrlOption = _URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a product with its thing model."""
    try:
        document = json.loads(sys.stdin.read() if str(tsl) == "-" else tsl.read_text())
    except (OSError, ValueError) as error:
        _fail(f"{tsl} is no readable JSON file: {error}", 1)
    product = _call("POST", api_url, key, "/v1/products", {"name": name, "tsl": document})
    _show([{"product_key": product["product_key"], "name": product["name"]}], output)


@product_app.command("list")
def list_products(key: KeyOption, api_url: UrlOption = _URL, output: OutputOption = Output.TABLE) -> None:
    """List the tenant's products."""
    _show(_pages(api_url, key, "/v1/products"), output)


@device_app.command("create")
def create_device(
    product_key: str,
    device_name: str,
    key: KeyOption,
    site: Annotated[str | None, typer.Option(help="Home or line; made when it is new.")] = None,
    api_url: UrlOption = _URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enter a device; its secret is shown this once."""
    body = {"device_name": device_name, "site": site}
    _show([_call("POST", api_url, key, f"/v1/products/{product_key}/devices", body)], output)


@device_app.command("list")
def list_devices(product_key: str, key: KeyOption, api_url: UrlOption = _URL, output: OutputOption = Output.TABLE) -> None:
    """List a product's devices."""
    _show(_pages(api_url, key, f"/v1/products/{product_key}/devices"), output)


@device_app.command("show")
def show_device(product_key: str, device_name: str, key: KeyOption, api_url: UrlOption = _URL) -> None:
    """One device with its reported shadow, as JSON."""
    _show([_call("GET", api_url, key, f"/v1/devices/{product_key}/{device_name}")], Output.JSON)


@quarantine_app.command("list")
def list_quarantine(key: KeyOption, api_url: UrlOption = _URL, output: OutputOption = Output.TABLE) -> None:
    """List what could not be taken, and why."""
    _show(_pages(api_url, key, "/v1/quarantine"), output)


@quarantine_app.command("count")
def count_quarantine(key: KeyOption, api_url: UrlOption = _URL) -> None:
    """Count it by reason, as JSON."""
    _show([_call("GET", api_url, key, "/v1/quarantine/count")], Output.JSON)


def _database(data: Path) -> Any:
    from cloud.foundation.db import Database
    from cloud.settings import Settings

    settings = Settings.read().for_directory(data)
    if settings.database_url is None and not (settings.dir / "meta.db").exists():
        _fail(f"{settings.dir} holds no platform; `hearthline up --data {settings.dir}` makes one", 1)
    return Database(settings.database)


def _call(method: str, url: str, key: str, path: str, body: object = None, query: dict[str, str] | None = None) -> dict[str, Any]:
    import httpx

    try:
        answer = httpx.request(method, url + path, headers={"Authorization": f"Bearer {key}"}, json=body, params=query, timeout=30)
    except httpx.HTTPError as error:
        _fail(f"no answer from {url}: {error}", 3)
    if answer.is_error:
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = answer.text
        _fail(f"{answer.status_code}: {detail}", 3 if answer.status_code == 503 else 1)
    result: dict[str, Any] = answer.json()
    return result


def _pages(url: str, key: str, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    query = {"limit": "1000"}
    while True:
        page = _call("GET", url, key, path, query=query)
        items += page["items"]
        if page["next"] is None:
            return items
        query["cursor"] = page["next"]


def _show(rows: list[dict[str, Any]], output: Output) -> None:
    if output is Output.JSON:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if not rows:
        print("none", file=sys.stderr)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def _fail(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """The console script."""
    try:
        app()
    except TryAgain as error:
        _fail(f"{error}; try again", 3)
    except (Refused, PlatformError) as error:
        _fail(str(error), 1)
