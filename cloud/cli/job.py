"""`hearthline job`: work for devices, over the API."""

import json
from typing import Annotated

import typer

from cloud.cli.calling import URL, KeyOption, UrlOption, call, pages
from cloud.cli.output import Output, OutputOption, fail, read_file, show, show_one

app = typer.Typer(no_args_is_help=True, help="Work for devices, over the API.")


@app.command("create")
def create_job(
    name: str,
    product_key: str,
    document: Annotated[str, typer.Argument(help="What the devices are to do, a JSON file; - reads stdin.")],
    device_names: list[str],
    key: KeyOption,
    timeout_s: Annotated[int, typer.Option(help="Past it a job that has not ended is TIMED_OUT.")] = 604_800,
    api_url: UrlOption = URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give devices of a product something to do."""
    try:
        found = json.loads(read_file(document))
    except ValueError as error:
        fail(f"{document}: not JSON: {error}", 1)
    body = {"name": name, "product_key": product_key, "device_names": device_names, "document": found, "timeout_s": timeout_s}
    made = call("POST", api_url, key, "/v1/jobs", body, once=True)
    show_one(made, output)
    if made["unknown"]:
        fail(f"no such devices: {', '.join(made['unknown'])}; the others have the job", 1)


@app.command("list")
def list_jobs(key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """List jobs, newest first."""
    rows = pages(api_url, key, "/v1/jobs")
    if output is Output.TABLE:
        rows = [{name: row[name] for name in ("job_id", "name", "product_key", "created", "counts")} for row in rows]
    show(rows, output)


@app.command("show")
def show_job(job_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """One job, and how many devices are how far."""
    show_one(call("GET", api_url, key, f"/v1/jobs/{job_id}"), output)


@app.command("tasks")
def list_tasks(job_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """What became of a job, device by device."""
    show(pages(api_url, key, f"/v1/jobs/{job_id}/tasks"), output)


@app.command("cancel")
def cancel_job(job_id: int, key: KeyOption, api_url: UrlOption = URL, output: OutputOption = Output.TABLE) -> None:
    """Cancel a job for all devices that have not ended it."""
    show_one(call("POST", api_url, key, f"/v1/jobs/{job_id}/cancel", {}), output)
