"""Many devices at once: the import route and `hearthline device import`, against the running platform."""

import csv
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.platform import Cloud
from tests.integration.test_registration import Product, opened


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("platform"), crash_points=False) as running:
        yield running


@pytest.fixture
def api(cloud: Cloud) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cloud.admin_key}"}
    with httpx.Client(base_url=cloud.api_url, headers=headers, timeout=60) as client:
        yield client


def test_ten_thousand_devices_are_imported_in_one_request(cloud: Cloud, api: httpx.Client) -> None:
    product = Product(api, "closed")
    lines = ["device_name,device_secret,site"] + [f"d{n},{n:032x},home-{n % 50}" for n in range(9_999)] + ["d0,another,home-1"]
    path = f"/v1/products/{product.key}/devices/import"
    headers = {"Content-Type": "text/csv"}
    done = api.post(path, content="\n".join(lines), headers=headers)
    assert done.status_code == 200, done.text
    counts = {name: done.json()[name] for name in ("created", "exists", "errors")}
    assert counts == {"created": 9_999, "exists": 0, "errors": 1}
    assert done.json()["rows"][-1] | {"detail": ""} == {
        "row": 10_000, "device_name": "d0", "outcome": "error", "fault": "bad_secret", "detail": "", "device_secret": None,
    }  # fmt: skip
    again = api.post(path, content="\n".join(lines[:-1]), headers=headers).json()
    assert (again["created"], again["exists"], again["errors"]) == (0, 9_999, 0)
    opened(cloud, product.key, "d9998", f"{9998:032x}").close()
    assert api.post(path, content="nonsense\n", headers=headers).status_code == 422
    assert api.post(path, content=b"device_name\n\xff\n", headers=headers).status_code == 422
    assert api.post(path, content=b"x" * (5 << 20), headers=headers).status_code == 413
    assert api.post("/v1/products", content=b"x" * (2 << 20)).status_code == 413, "other routes take no more than before"


def imported(cloud: Cloud, product: Product, folder: Path, *more: str, terminal: int | None = None) -> "subprocess.CompletedProcess[str]":
    """`terminal`: a file descriptor that is the command's stderr."""
    command = [sys.executable, "-m", "cloud", "device", "import", product.key, "fleet.csv", "--out", "secrets.csv", *more]
    environment = os.environ | {"HEARTHLINE_API_URL": cloud.api_url, "HEARTHLINE_API_KEY": cloud.admin_key}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    stderr = subprocess.PIPE if terminal is None else terminal
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=120)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_fleet_moves_with_its_old_secrets_and_a_run_is_safe_to_repeat(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    product = Product(api, "closed")
    product.enter("there")
    old = "F00DF00DF00DF00DF00DF00DF00DF00D"
    rows = [f"d{n},,home-{n % 7}" for n in range(1_200)] + [f"old,{old},home-1", "there,,", "bad name,,", "d7,,", "a,b"]
    (tmp_path / "fleet.csv").write_text("device_name,device_secret,site\n" + "\n".join(rows) + "\n")
    done = imported(cloud, product, tmp_path, "--report", "errors.csv")
    assert done.returncode == 1, done.stderr
    assert "1201 created, 1 there already, 3 failed" in done.stderr
    assert [row[:3] for row in table(tmp_path / "errors.csv")] == [
        ["row", "device_name", "fault"],
        ["1203", "bad name", "bad_name"],
        ["1204", "d7", "twice"],
        ["1205", "", "bad_name"],
    ]
    secrets = dict(row for row in table(tmp_path / "secrets.csv")[1:])
    assert (tmp_path / "secrets.csv").stat().st_mode & 0o777 == 0o600
    assert set(secrets) == {f"d{n}" for n in range(1_200)} | {"old"}
    assert secrets["old"] == old
    for name in ("d0", "d1199", "old"):
        opened(cloud, product.key, name, secrets[name]).close()
    (tmp_path / "fleet.csv").write_text("device_name,device_secret,site\n" + "\n".join(rows[:-3]) + "\n")
    again = imported(cloud, product, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "0 created, 1202 there already, 0 failed" in again.stderr
    assert dict(row for row in table(tmp_path / "secrets.csv")[1:]) == secrets


def test_on_a_terminal_a_bar_shows_how_far_it_is(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("device_name\n" + "".join(f"d{n}\n" for n in range(700)))
    ours, theirs = pty.openpty()
    try:
        assert imported(cloud, Product(api, "closed"), tmp_path, terminal=theirs).returncode == 0
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "700/700" in shown
    assert "700 created" in shown


def test_a_run_that_was_cut_short_before_its_answer_loses_no_secret(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    """The secrets lie in the file before they are sent: the next run finds its devices there, with the same ones."""
    product = Product(api, "closed")
    (tmp_path / "fleet.csv").write_text("device_name\nd1\nd2\n")
    (tmp_path / "secrets.csv").write_text("device_name,device_secret\nd1," + "1" * 32 + "\nd2," + "2" * 32 + "\n")
    content = "device_name,device_secret\nd1," + "1" * 32 + "\n"
    api.post(f"/v1/products/{product.key}/devices/import", content=content, headers={"Content-Type": "text/csv"})
    done = imported(cloud, product, tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "1 created, 1 there already, 0 failed")
    opened(cloud, product.key, "d2", "2" * 32).close()


def test_a_file_that_cannot_be_taken_says_why_and_touches_nothing(cloud: Cloud, api: httpx.Client, tmp_path: Path) -> None:
    product = Product(api, "closed")
    for content, told in ((b"name\nd1\n", "first line has to name the columns"), (b"device_name\n\xff\n", "not UTF-8")):
        (tmp_path / "fleet.csv").write_bytes(content)
        done = imported(cloud, product, tmp_path)
        assert done.returncode == 1
        assert told in done.stderr
    (tmp_path / "fleet.csv").write_text("device_name\nd1\n")
    (tmp_path / "secrets.csv").write_text("something,else\n")
    done = imported(cloud, product, tmp_path)
    assert done.returncode == 1
    assert "no file of secrets" in done.stderr
    assert (tmp_path / "secrets.csv").read_text() == "something,else\n"
