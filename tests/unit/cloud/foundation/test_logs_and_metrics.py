"""What a process says about itself: secrets masked, one scrape for all roles."""

import json
import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cloud.foundation.logs import Unfailing, mask_secrets
from cloud.foundation.metrics import Metrics, merge

ROOT = Path(__file__).parents[4]


def test_secret_fields_are_masked_and_others_are_not() -> None:
    event = {"event": "x", "device_secret": "a", "nats_token": "b", "password": b"c", "admin_key": "d", "device_name": "e"}
    masked = mask_secrets(None, "info", dict(event))
    assert masked == {"event": "x", "device_secret": "***", "nats_token": "***", "password": "***", "admin_key": "***", "device_name": "e"}


def test_logs_of_ours_and_of_libraries_are_json_lines_on_stderr_with_the_role() -> None:
    program = (
        "import logging; from cloud.foundation import logs; logs.configure('core', 'info');"
        "logs.get_logger().info('a.b', count=1, api_key='hl_x'); logs.get_logger().debug('quiet');"
        "logging.getLogger('library').warning('hm %d', 2); logging.getLogger('library').info('quiet')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logs.get_logger().exception('bad')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second, third = [json.loads(line) for line in done.stderr.splitlines()]
    assert (first["event"], first["role"], first["count"], first["api_key"]) == ("a.b", "core", 1, "***")
    assert (second["event"], second["level"]) == ("hm 2", "warning")
    assert third["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert done.stdout == ""


def test_asking_twice_for_a_metric_gives_the_same_one() -> None:
    metrics = Metrics()
    metrics.counter("hearthline_things", "Things.", ("reason",)).labels("a").inc()
    metrics.counter("hearthline_things", "Things.", ("reason",)).labels("a").inc()
    metrics.gauge("hearthline_level", "Level.").set(3)
    metrics.histogram("hearthline_wait_seconds", "Wait.").observe(0.2)
    text = metrics.render().decode()
    assert 'hearthline_things_total{reason="a"} 2.0' in text
    assert "hearthline_level 3.0" in text
    assert "_created" not in text


def test_the_joined_scrape_names_each_family_once_and_each_sample_by_role() -> None:
    roles = {}
    for role in ("core", "access"):
        metrics = Metrics()
        metrics.counter("hearthline_things", "Things.").inc(1 if role == "core" else 2)
        metrics.histogram("hearthline_wait_seconds", "Wait.").observe(0.2)
        roles[role] = metrics.render()
    families = {family.name: family for family in text_string_to_metric_families(merge(roles).decode())}
    things = {sample.labels["role"]: sample.value for sample in families["hearthline_things"].samples}
    assert things == {"core": 1.0, "access": 2.0}
    assert families["hearthline_wait_seconds"].type == "histogram"
    assert len(families["hearthline_wait_seconds"].samples) == 2 * (13 + 1 + 2)


def test_a_traceback_in_the_log_holds_no_values_of_variables() -> None:
    """They may be keys and secrets."""
    program = (
        "from cloud.foundation import logs; logs.configure('core')\n"
        "def inner(key):\n    raise ValueError('told so')\n"
        "try:\n    inner('canary-' + 'secret')\nexcept ValueError as error:\n    logs.get_logger().error('x.failed', exc_info=error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "told so" in done.stderr
    assert "canary-secret" not in done.stderr


def test_a_full_disk_ends_nobody_who_logs_and_the_next_line_says_how_many_are_missing(tmp_path: Path) -> None:
    number = os.open("/dev/full", os.O_WRONLY)
    log = Unfailing(number)
    log.write("one\n")
    log.write("two\n")
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), number)
    log.write("three\n")
    os.close(number)
    assert (tmp_path / "log").read_text() == '{"event": "logs.dropped", "lines": 2}\nthree\n'
