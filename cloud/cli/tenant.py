"""`hearthline tenant`: tenants and API keys, in the data directory."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli.output import Output, OutputOption, fail, show
from cloud.cli.up import DATA, DataOption

app = typer.Typer(no_args_is_help=True, help="Tenants and API keys, in the data directory.")


@app.command("create")
def create_tenant(name: str, data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """Make a tenant and its first API key, which is shown this once."""
    from cloud.tenancy import service

    with open_database(data).system() as work:
        tenant = service.create_tenant(work, name)
        key = service.create_api_key(work, tenant.tenant_id, "admin")
        work.commit()
    show([{"tenant": name, "key": key}], output)


@app.command("list")
def list_tenants(data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """List the tenants."""
    from cloud.tenancy import service

    with open_database(data).system_reading() as work:
        show([{"tenant": tenant.name, "created": tenant.created_ms} for tenant in service.list_tenants(work)], output)


@app.command("key")
def create_key(
    tenant: str,
    name: Annotated[str, typer.Option(help="What it is for.")] = "admin",
    data: DataOption = DATA,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make another API key for a tenant; it is shown this once."""
    from cloud.tenancy import service

    with open_database(data).system() as work:
        key = service.create_api_key(work, service.tenant_id(work, tenant), name)
        work.commit()
    show([{"tenant": tenant, "name": name, "key": key}], output)


@app.command("keys")
def list_keys(tenant: str, data: DataOption = DATA, output: OutputOption = Output.TABLE) -> None:
    """List a tenant's keys by prefix."""
    from cloud.tenancy import service

    with open_database(data).system_reading() as work:
        keys = service.list_api_keys(work, service.tenant_id(work, tenant))
    show([{"prefix": k.prefix, "name": k.name, "created": k.created_ms, "revoked": k.revoked_ms} for k in keys], output)


@app.command("revoke")
def revoke_key(prefix: str, data: DataOption = DATA) -> None:
    """Revoke the key with this prefix, from the next request on."""
    from cloud.tenancy import service

    with open_database(data).system() as work:
        service.revoke_api_key(work, prefix)
        work.commit()


def open_database(data: Path) -> Any:
    """The metadata of this data directory; ends the program when it holds none."""
    from cloud.foundation.db import Database
    from cloud.settings import Settings

    settings = Settings.read().for_directory(data)
    if settings.database_url is None and not (settings.dir / "meta.db").exists():
        fail(f"{settings.dir} holds no platform; `hearthline up --data {settings.dir}` makes one", 1)
    return Database(settings.database)
