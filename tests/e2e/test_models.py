"""Models at the edge, whole: trained by the command line, run on a gateway, their scores in the cloud; and a worker that is mistreated.

One cloud for the module; every test has its own gateway, site and products.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import skab
from tests.e2e.account import read_log
from tests.e2e.mutant import mutant
from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.e2e.scenes import RAISE_AFTER, Machine, Site, model_table, press_line, rows_logged, said, settled, wait_rows

SCORE, EVENT = "AnomalyScore", "AnomalyDetected"
DOUBLE: dict[str, Any] = {"type": "double", "specs": {}}
TEXT: dict[str, Any] = {"type": "text", "specs": {"length": "64"}}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("cloud"), crash_points=False) as running:
        yield running


def train(table: Path, out: Path, *options: str) -> dict[str, Any]:
    """`hearthline train anomaly`; what it says of the model."""
    command = [sys.executable, "-m", "cloud", "train", "anomaly", str(table), "--out", str(out), "-o", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_score(tsl: dict[str, Any]) -> dict[str, Any]:
    """A thing model that has room for a score."""
    names = {"Score": DOUBLE, "Threshold": DOUBLE, "Signal": TEXT, "Model": TEXT}
    outputs = [{"identifier": name, "name": name, "dataType": kind} for name, kind in names.items()]
    event = {"identifier": EVENT, "name": EVENT, "type": "alert", "method": f"thing.event.{EVENT}.post", "outputData": outputs}
    score = {"identifier": SCORE, "name": SCORE, "accessMode": "r", "required": False, "dataType": DOUBLE}
    return tsl | {"properties": [*tsl["properties"], score], "events": [*tsl.get("events", []), event]}


def begins(scores: dict[int, float]) -> list[int]:
    """When an event is due: behind `RAISE_AFTER` scores above 1 in a row, again only after ten below it (the default)."""
    times, raised, run = [], False, 0
    for time_ms, score in sorted(scores.items()):
        run = run + 1 if (score > 1) is not raised else 0
        if run >= (10 if raised else RAISE_AFTER):
            raised, run = not raised, 0
            if raised:
                times.append(time_ms)
    return times


def test_scores_of_real_machines_in_the_cloud_are_those_of_scikit_learn(cloud: Cloud, data_dir: Path, tmp_path: Path) -> None:
    files = {"valve": data_dir / "skab" / "valve1_1.csv.gz", "rotor": data_dir / "skab" / "other_11.csv.gz"}
    machines, tables, expected = [], [], {}
    try:
        for name, file in files.items():
            bench = skab.read(file)
            skab.write_csv(bench, tmp_path / f"{name}.csv", rows=skab.FITTED_ROWS)
            said_of_it = train(tmp_path / f"{name}.csv", tmp_path / f"{name}.onnx")
            assert said_of_it["window_rows"] == skab.WINDOW_ROWS
            columns = [word for pair in bench.identifiers.items() for word in ("--column", "=".join(pair))]
            addresses = [
                word
                for place, header in enumerate(bench.identifiers)
                for word in ("--address", f"{header}=holding:{100 + 4 * place}:float64")
            ]
            machine = Machine.replay(tmp_path / name, name, file, *columns, *addresses, rate=100)
            machine.tsl = with_score(machine.tsl)
            machines.append(machine)
            tables.append(model_table(f"{name}-model", tmp_path / f"{name}.onnx", name))
            expected[name] = skab.expected_scores(bench.times, bench.values)
        site = Site.build(cloud, tmp_path / "edge", "water", machines, more="\n".join(tables))
        try:
            with site.gateway as agent:
                for machine in machines:
                    said(machine.process, "done", 120)
                for machine in machines:
                    check_scores(cloud, site.keys[machine.name], machine, expected[machine.name])
                listed = {entry["device_name"]: entry for entry in agent.edgectl("models", "list")}
                assert {name: entry["scored"] for name, entry in listed.items()} == {name: len(of) for name, of in expected.items()}
                assert all(entry["not_scored"] == 0 and entry["fault"] == "" for entry in listed.values())
        finally:
            site.end()
    finally:
        for machine in machines:
            machine.end()


def check_scores(cloud: Cloud, product_key: str, machine: Machine, expected: dict[int, float]) -> None:
    account = settled(cloud, product_key, machine.name, machine.log, raw=False)
    assert account.balanced, account
    assert account.in_gaps == 0
    wait_until(lambda: len(stored_scores(cloud, product_key, machine.name)) >= len(expected), 30, "every score in the cloud")
    scores = stored_scores(cloud, product_key, machine.name)
    assert len(scores) > 600
    assert scores.keys() == expected.keys()
    worst = max(abs(scores[time_ms] - score) / score for time_ms, score in expected.items())
    assert worst <= 1e-5, worst
    assert max(scores.values()) > 1 > min(scores.values())
    events = list(cloud.api.points(product_key, machine.name, EVENT, raw=False))
    assert [time_ms for time_ms, _ in events] == begins(expected)
    assert len(events) > 0
    assert all(output["Signal"] in expected_signals(machine) and output["Score"] > 1 for _, output in events)


def stored_scores(cloud: Cloud, product_key: str, device: str) -> dict[int, float]:
    return {time_ms: float(value) for time_ms, value in cloud.api.points(product_key, device, SCORE, raw=False)}


def expected_signals(machine: Machine) -> set[str]:
    return {entry["identifier"] for entry in machine.tsl["properties"]} - {SCORE}


# --- a worker that is killed, hung and starved

RATE = 60.0
BOUNDS: dict[str, Any] = {"deadline_ms": 400, "memory_mib": 160, "queue_rows": 100}
PHASE_S = 3.0


def workers(site: Site) -> list[psutil.Process]:
    """The agent's inference workers, found from outside."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(site.gateway.pid).children() if "edge_agent.inference.worker" in child.cmdline()]
    return []


def mistreat(site: Site, treat: Callable[[psutil.Process], None], seconds: float) -> int:
    """Do it to every worker there is, again and again for so long; how often it was done."""
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for worker in workers(site):
            with contextlib.suppress(psutil.NoSuchProcess):
                treat(worker)
                done += 1
        time.sleep(0.02)
    return done


def starve(worker: psutil.Process) -> None:
    """A twentieth of a processor, in slices."""
    worker.send_signal(signal.SIGSTOP)
    time.sleep(0.19)
    worker.send_signal(signal.SIGCONT)
    time.sleep(0.01)


def collected(site: Site) -> int:
    """Readings that are durable, as the buffer file itself says."""
    return int(site.gateway.edgectl("account")["collected"])


def rows_kept(site: Site, log: Path, seconds: Callable[[], object]) -> tuple[int, int]:
    """(rows produced, readings made durable) while `seconds` passes."""
    rows, readings = rows_logged(log), collected(site)
    seconds()
    return rows_logged(log) - rows, collected(site) - readings


def test_a_model_that_is_killed_hung_or_starved_delays_no_reading_and_its_holes_are_named(cloud: Cloud, tmp_path: Path) -> None:
    line, link, site, log = press_line(cloud, tmp_path / "line", "press-line", RATE, **BOUNDS)
    try:
        with site.gateway:
            wait_rows(log, 60)
            wait_until(lambda: len(stored_scores(cloud, site.keys["press-1"], "press-1")) > 10, 30, "first scores")
            undisturbed, _ = rows_kept(site, log, lambda: time.sleep(PHASE_S))
            assert undisturbed > 0.5 * RATE * PHASE_S
            times = {}
            for name, treat in (("killed", psutil.Process.kill), ("hung", psutil.Process.suspend), ("starved", starve)):
                done = [0]

                def phase(treat: Callable[[psutil.Process], None] = treat, done: list[int] = done) -> None:
                    done[0] = mistreat(site, treat, PHASE_S)

                rows, readings = rows_kept(site, log, phase)
                times[name] = done[0]
                assert rows > 0.6 * undisturbed, f"{name}: {rows} rows, {undisturbed} when nobody disturbs"
                assert readings > 0.6 * undisturbed * 17, f"{name}: {readings} readings made durable"
            assert min(times.values()) >= 3, times
            before = len(stored_scores(cloud, site.keys["press-1"], "press-1"))
            recovered = lambda: len(stored_scores(cloud, site.keys["press-1"], "press-1")) > before + 60  # noqa: E731 - named for the wait
            wait_until(recovered, 30, "scores again")
            (listed,) = site.gateway.edgectl("models", "list")
            assert site.gateway.edgectl("status")["models"]["restarts"] >= 3
            assert listed["running"]
            line.stop(15)
            account = settled(cloud, site.keys["press-1"], "press-1", log, raw=True)
            assert account.balanced, account
            assert account.in_gaps == 0, "a reading was missed"
            unscored = listed["not_scored"] + listed["warming"] - (listed["window_rows"] - 1)  # the first window is no hole
            check_holes(cloud, site.keys["press-1"], log, unscored)
    finally:
        site.end()
        line.end()
        link.close()


def check_holes(cloud: Cloud, product_key: str, log: Path, unscored: int) -> None:
    """Every row from the first score to the last has a score or lies in a gap of the score, whose count is that of its rows."""
    times = [row.time_ms for row in read_log(log)]
    scored = stored_scores(cloud, product_key, "press-1").keys()
    gaps = [gap for gap in cloud.api.gaps(product_key, "press-1", SCORE) if gap.reason == "not_scored"]
    between = [time_ms for time_ms in times if min(scored) <= time_ms <= max(scored)]
    for time_ms in between:
        assert (time_ms in scored) is not any(gap.holds(time_ms) for gap in gaps), time_ms
    assert scored <= set(times)
    assert [gap.count for gap in gaps] == [sum(gap.holds(time_ms) for time_ms in times) for gap in gaps]
    assert sum(gap.count or 0 for gap in gaps) == unscored > 0


def test_an_agent_that_waits_for_its_model_is_found_out(cloud: Cloud, tmp_path: Path) -> None:
    """The mutant: reading asks the model first. While the worker hangs, the machine is hardly read any more."""
    line, link, site, log = press_line(cloud, tmp_path / "line", "mutant-line", RATE, code=mutant("await_the_model", tmp_path), **BOUNDS)
    try:
        with site.gateway:
            wait_rows(log, 60)
            undisturbed, _ = rows_kept(site, log, lambda: time.sleep(PHASE_S))
            _, readings = rows_kept(site, log, lambda: mistreat(site, psutil.Process.suspend, PHASE_S))
            assert readings < 0.6 * undisturbed * 17
    finally:
        site.end()
        line.end()
        link.close()
