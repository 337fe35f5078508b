"""Documents survive cuts at any moment, and the registry remembers devices."""

from pathlib import Path

import pytest
from tinydb import TinyDB

from edge_agent.documents.registry import DeviceNote, DeviceRegistry
from edge_agent.documents.status import is_running, read_status, write_status
from edge_agent.documents.storage import AtomicStorage


def test_a_document_comes_back(tmp_path: Path) -> None:
    with TinyDB(tmp_path / "doc.json", storage=AtomicStorage) as database:
        database.insert({"name": "炉灶"})
    with TinyDB(tmp_path / "doc.json", storage=AtomicStorage) as database:
        assert database.all() == [{"name": "炉灶"}]


@pytest.mark.parametrize("damage", [b"", b'{"_default": {"1": {"n"', b"\x00\x00", b"[]"])
def test_a_damaged_document_falls_back_to_the_last_good_one(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "doc.json"
    with TinyDB(path, storage=AtomicStorage) as database:
        database.insert({"n": 1})
        database.insert({"n": 2})
    path.write_bytes(damage)
    with TinyDB(path, storage=AtomicStorage) as database:
        assert [document["n"] for document in database.all()] == [1]


def test_with_nothing_whole_left_it_starts_empty_and_keeps_the_ruin(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    path.write_bytes(b"{")
    with TinyDB(path, storage=AtomicStorage) as database:
        assert database.all() == []
    assert (tmp_path / "doc.json.damaged").read_bytes() == b"{"


def test_a_cut_before_the_rename_leaves_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    with TinyDB(path, storage=AtomicStorage) as database:
        database.insert({"n": 1})
    (tmp_path / "doc.json.new").write_bytes(b'{"half')
    with TinyDB(path, storage=AtomicStorage) as database:
        assert [document["n"] for document in database.all()] == [1]
        database.insert({"n": 2})
    with TinyDB(path, storage=AtomicStorage) as database:
        assert [document["n"] for document in database.all()] == [1, 2]


def test_a_document_is_its_owners_business(tmp_path: Path) -> None:
    with TinyDB(tmp_path / "doc.json", storage=AtomicStorage) as database:
        database.insert({"n": 1})
    assert (tmp_path / "doc.json").stat().st_mode & 0o777 == 0o600


def test_the_registry_remembers_devices(tmp_path: Path) -> None:
    note = DeviceNote("pk", "dn", "line", online=True, first_seen_ms=1, last_change_ms=2)
    registry = DeviceRegistry(tmp_path)
    registry.keep({("pk", "dn"): note})
    registry.close()
    assert DeviceRegistry(tmp_path).notes() == {("pk", "dn"): note}


def test_the_status_says_whether_its_writer_lives(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    assert not is_running(None)
    write_status(tmp_path, {"pid": 2**22 + 1})
    assert not is_running(read_status(tmp_path))
    import os

    write_status(tmp_path, {"pid": os.getpid()})
    assert is_running(read_status(tmp_path))
