"""The scene of a lone module: an agent, and the appliance's controller on a serial cable that a test can spoil."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cable import Cable
from tests.e2e.platform import ROOT, Cloud, Process, simulator
from tests.e2e.scenes import Site, chance_of_this_run, said, toml
from tests.e2e.trio import made_up


@contextmanager
def lone_module(
    cloud: Cloud, folder: Path, name: str, *options: str, rows: int, rate: float, noise: float = 0.0, code: Path = ROOT
) -> Iterator[tuple[Site, Process, Cable]]:
    """A controller that sends `rows` rows, its cable, and the agent that is told of them."""
    file = made_up(folder / "day.csv", rows)
    outputs = ["--tsl-out", str(folder / "tsl.json"), "--map-out", str(folder / "map.json")]
    words = [
        "controller",
        str(file),
        "--line",
        str(folder / "line"),
        "--device-name",
        "oven",
        "--log-dir",
        str(folder),
        "--rate",
        str(rate),
    ]
    controller = simulator(f"{name}-controller", [*words, *outputs, *options], folder)
    controller.start()
    try:
        said(controller, "ready")
        cable = Cable(folder / "line", chance_of_this_run(), noise)
        head = {"name": "mainboard", "kind": "serial-line", "device": "oven", "path": cable.path, "silence_ms": 1_000}
        head |= {"own_time": "--no-own-time" not in options}
        tags = [toml(tag) for tag in json.loads((folder / "map.json").read_text())]
        more = "\n".join(["[[connector]]\n" + toml(head), *("[[connector.tag]]\n" + tag for tag in tags)])
        site = Site.build(
            cloud, folder / "edge", name, appliances={"oven": json.loads((folder / "tsl.json").read_text())}, more=more, code=code
        )
        try:
            site.gateway.start()
            yield site, controller, cable
        finally:
            site.end()
            cable.close()
    finally:
        controller.end()
