"""`hearthline group`: named sets of devices, over the API."""

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, show

app = typer.Typer(no_args_is_help=True, help="Named sets of devices, over the API.")


@app.command("create")
def create_group(name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Make a group; it begins empty."""
    show([call("POST", api_url, key, "/v1/groups", {"name": name}, once=True)], output)


@app.command("list")
def list_groups(key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List the tenant's groups."""
    show(pages(api_url, key, "/v1/groups"), output)


@app.command("show")
def show_group(group_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """The devices of a group."""
    call("GET", api_url, key, f"/v1/groups/{group_id}")
    show(pages(api_url, key, "/v1/devices", {"group": str(group_id)}), output)


@app.command("rename")
def rename_group(group_id: int, name: str, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Give a group another name."""
    show([call("PATCH", api_url, key, f"/v1/groups/{group_id}", {"name": name})], output)


@app.command("delete")
def delete_group(group_id: int, key: KeyOption, api_url: UrlOption = URL) -> None:
    """Delete a group; its devices stay."""
    call("DELETE", api_url, key, f"/v1/groups/{group_id}")


def _change(api_url: str, key: str, group_id: int, what: str, product_key: str, names: list[str], output: Output) -> None:
    body = {what: [{"product_key": product_key, "device_name": name} for name in names]}
    found = call("POST", api_url, key, f"/v1/groups/{group_id}/members", body)
    unknown = found.pop("unknown")
    show([found], output)
    if unknown:
        fail(f"no such devices: {', '.join(one['device_name'] for one in unknown)}; the others were taken", 1)


@app.command("add")
def add_members(
    group_id: int, product_key: str, device_names: list[str], key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """Take devices of a product into a group."""
    _change(api_url, key, group_id, "add", product_key, device_names, output)


@app.command("remove")
def remove_members(
    group_id: int, product_key: str, device_names: list[str], key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE
) -> None:
    """Put devices of a product out of a group."""
    _change(api_url, key, group_id, "remove", product_key, device_names, output)
