"""A backup's manifest: what is no backup, or not what was written, is told apart before anything is restored."""

from pathlib import Path

import msgspec
import pytest

from cloud.backup.model import FORMAT, MANIFEST, Manifest, describe, files_in
from cloud.telemetry.model import Position
from protocols.errors import Refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "meta.db").write_bytes(b"metadata")
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.key").write_bytes(b"key")
    files = {name: describe(tmp_path / name) for name in files_in(tmp_path)}
    manifest = Manifest(FORMAT, 1_000, 5, 70, Position("s", 9), files)
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return tmp_path


def test_what_was_written_is_read_and_found_sound(folder: Path) -> None:
    manifest = Manifest.read(folder)
    manifest.check(folder)
    assert sorted(manifest.files) == ["meta.db", "tls/ca.key"]
    assert manifest.on_sqlite


@pytest.mark.parametrize("damage", [b"metadat4", b"metadata!", b"", None])
def test_a_file_that_changed_or_is_gone_is_named(folder: Path, damage: bytes | None) -> None:
    (folder / "meta.db").unlink() if damage is None else (folder / "meta.db").write_bytes(damage)
    with pytest.raises(Refused, match=r"meta\.db is missing or damaged"):
        Manifest.read(folder).check(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b'{"format":1}', b"\xff"])
def test_a_folder_without_a_whole_manifest_is_no_backup(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(Refused, match="holds no backup"):
        Manifest.read(folder)
    with pytest.raises(Refused, match="holds no backup"):
        Manifest.read(folder / "tls")


def test_another_format_is_left_to_the_version_that_made_it(folder: Path) -> None:
    other = msgspec.structs.replace(Manifest.read(folder), format=FORMAT + 1)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(other))
    with pytest.raises(Refused, match="with the version that made it"):
        Manifest.read(folder)
