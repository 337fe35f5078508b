"""`hearthline train`: models from readings. Needs the `train` extra; the gateway that runs a model does not."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cloud.cli.output import Output, OutputOption, fail, show

app = typer.Typer(no_args_is_help=True, help="Models for gateways, from readings.")


@app.callback()
def _noun() -> None:
    """Models for gateways, from readings."""


@app.command("anomaly")
def train_anomaly(
    readings: Annotated[list[Path], typer.Argument(metavar="CSV...", help="One machine's readings: a column of times, others of numbers.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")] = Path("anomaly.onnx"),
    name: Annotated[str | None, typer.Option(help="The model's name; that of the first file by default.")] = None,
    signals: Annotated[str | None, typer.Option(help="Columns to use, with commas; every numeric one by default.")] = None,
    leave_out: Annotated[str, typer.Option(help="Columns not to use, with commas.")] = "",
    time: Annotated[str | None, typer.Option(help="The column of times: epoch ms or ISO 8601.")] = None,
    rows: Annotated[int | None, typer.Option(min=50, help="Fit on the machine's first readings only, this many.")] = None,
    window: Annotated[int, typer.Option(min=2, max=256, help="Rows that are looked at together.")] = 10,
    explained: Annotated[float, typer.Option(help="Part of the variance that the components hold.")] = 0.99,
    false_alarm_rate: Annotated[float, typer.Option(help="Part of a sound machine's windows that may score too high.")] = 0.001,
    output: OutputOption = Output.TABLE,
) -> None:
    """Learn how a sound machine looks, from its first readings, and write the model that tells when it no longer does."""
    try:
        from cloud.models.anomaly import fit
        from cloud.models.onnx_file import to_onnx
        from cloud.models.readings import read_readings
    except ModuleNotFoundError as missing:
        fail(f"training needs {missing.name}: pip install 'hearthline[train]'", 1)
    found = read_readings(readings, signals=_names(signals), leave_out=_names(leave_out), time=time)
    if rows is not None:
        found = found.first(rows)
    fitted = fit(
        found,
        name=name or readings[0].name.partition(".")[0],
        made_by=f"hearthline {version('hearthline')}",
        window_rows=window,
        explained=explained,
        false_alarm_rate=false_alarm_rate,
    )
    out.write_bytes(to_onnx(fitted))
    card = fitted.card
    show(
        [
            {
                "model": card.name,
                "file": str(out),
                "signals": ",".join(card.signals),
                "window_rows": card.window_rows,
                "components": card.components,
                "explained": round(card.explained_variance, 4),
                "windows": card.fitted_windows,
                "held_out": card.held_out_windows,
                "held_out_false_alarms": card.held_out_false_alarm_rate,
            }
        ],
        output,
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
