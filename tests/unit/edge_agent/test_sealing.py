"""Encryption at rest: nothing readable of what was stored, everything there with the key, and no other key takes it for damaged."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.buffer.frame_file import FrameFile
from edge_agent.buffer.rekey import rekey
from edge_agent.buffer.sealing import NO_SEAL, OVERHEAD_BYTES, Seal, Unsealable
from edge_agent.domain.quotas import LanePolicy, Overflow, Quotas
from edge_agent.ports import OutboxUnavailable
from protocols.edgelink.columns import Columns
from protocols.edgelink.frame import body_of, decode_body, encode_body
from protocols.edgelink.lanes import LANES, GapReason, Lane
from protocols.edgelink.records import EventRecord, GapRecord
from tests.unit.edge_agent.test_cli import edgectl

KEY, OTHER = Seal(bytes(range(32))), Seal(bytes(32))
WORD = "OverheatingOfTheSecretOven"


def opened(path: Path, seal: Seal = KEY, quotas: Quotas | None = None) -> FrameFile:
    return FrameFile(path, quotas=quotas or Quotas(1 << 30), gateway=("gateway", "gw1"), in_doubt=0, seal=seal)


def body(number: int) -> bytes:
    """Four readings and an event that does not compress away."""
    event = EventRecord("pk", "oven", WORD, 1_000 + number, os.urandom(40).hex())
    times = 1_000 * number + np.arange(4, dtype=np.int64)
    return encode_body(Columns((("pk", "oven", "T"),), np.zeros(4, np.uint32), times, np.full(4, 20.5)), (event,))


def readings(number: int) -> bytes:
    """Four of two series."""
    times = 1_000 * number + np.repeat(np.arange(2, dtype=np.int64), 2)
    dictionary = (("pk", "oven", "T"), ("pk", "oven", "P"))
    return encode_body(Columns(dictionary, np.tile(np.arange(2, dtype=np.uint32), 2), times, np.random.default_rng(number).random(4)))


def write(path: Path, numbers: Sequence[int], seal: Seal = KEY) -> None:
    file = opened(path, seal)
    file.begin()
    for number in numbers:
        file.append(Lane.LIVE, body(number), 4, number)
        file.remember({f"command/{number}": f"{WORD} {number}".encode()})
    file.commit()
    file.close()


def numbers(file: FrameFile) -> list[int]:
    frames, damaged = file.read(Lane.LIVE, 0, 1_000)
    assert damaged == []
    return [int(decode_body(body_of(frame))[0].times[0]) // 1_000 for _, frame in frames]


def on_disk(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in path.parent.iterdir())


@given(data=st.binary(max_size=200))
def test_what_is_sealed_opens_with_its_key_and_no_other(data: bytes) -> None:
    sealed = KEY.close(data)
    assert KEY.open(sealed) == data
    assert len(sealed) == len(data) + OVERHEAD_BYTES
    for wrong in (OTHER, NO_SEAL):
        with pytest.raises(Unsealable):
            wrong.open(sealed)


@given(data=st.binary(max_size=50), place=st.integers(min_value=5), flip=st.integers(1, 255))
def test_a_changed_byte_is_noticed(data: bytes, place: int, flip: int) -> None:
    sealed = bytearray(KEY.close(data))
    sealed[5 + place % (len(sealed) - 5)] ^= flip
    with pytest.raises(Unsealable):
        KEY.open(bytes(sealed))


def test_nothing_that_was_stored_can_be_read_on_the_disk_and_all_of_it_with_the_key(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "sealed").mkdir()
    write(tmp_path / "plain" / "b.db", range(5), NO_SEAL)
    write(tmp_path / "sealed" / "b.db", range(5))
    assert on_disk(tmp_path / "plain" / "b.db").count(WORD.encode()) >= 5, "the search finds what is not sealed"
    assert WORD.encode() not in on_disk(tmp_path / "sealed" / "b.db")
    file = opened(tmp_path / "sealed" / "b.db")
    assert numbers(file) == [0, 1, 2, 3, 4]
    assert file.marks("command/") == {f"command/{n}": f"{WORD} {n}".encode() for n in range(5)}
    file.close()


@pytest.mark.parametrize("wrong", [OTHER, NO_SEAL])
def test_another_key_or_none_is_refused_and_touches_nothing(tmp_path: Path, wrong: Seal) -> None:
    path = tmp_path / "b.db"
    write(path, range(3))
    with pytest.raises(OutboxUnavailable, match=r"another key.*key_file"):
        opened(path, wrong)
    file = opened(path)
    assert numbers(file) == [0, 1, 2]
    file.close()


@pytest.mark.parametrize("wrong", [OTHER, NO_SEAL])
def test_it_is_refused_too_when_the_mark_of_the_key_is_lost(tmp_path: Path, wrong: Seal) -> None:
    path = tmp_path / "b.db"
    write(path, range(3))
    with apsw.Connection(str(path)) as db:
        db.execute("delete from mark where key = 'seal/check'")
    db.close()
    with pytest.raises(OutboxUnavailable, match="another key"):
        opened(path, wrong)
    opened(path).close()


def test_a_buffer_from_before_it_had_a_key_is_read_and_goes_on_sealed(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    write(path, range(3), NO_SEAL)
    write(path, range(3, 6))
    file = opened(path)
    assert numbers(file) == [0, 1, 2, 3, 4, 5]
    file.close()


def test_a_flipped_bit_costs_its_frame_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    write(path, range(3))
    with apsw.Connection(str(path)) as db:
        db.execute(
            "update frame set body = cast(substr(body, 1, 40) || x'00' || substr(body, 42) as blob) where id = ?",
            (Lane.LIVE.code << 56 | 2,),
        )
    db.close()
    file = opened(path)
    frames, damaged = file.read(Lane.LIVE, 0, 10)
    assert [seq for seq, _ in frames] == [1, 3]
    assert damaged == [2]
    file.close()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.THIN, Overflow.BLOCK])
def test_overflow_works_on_what_is_sealed_and_its_quota_counts_the_seal(tmp_path: Path, overflow: Overflow) -> None:
    quotas = Quotas(40_000, {lane: LanePolicy(overflow, keep_every=2) for lane in LANES})
    file = opened(tmp_path / "b.db", KEY, quotas)
    taken = 0
    for number in range(400):
        file.begin()
        taken += file.append(Lane.LIVE, readings(number), 4, number) is not None
        file.commit()
    live = file.state.lanes[Lane.LIVE]
    assert live.used_bytes <= quotas.total_bytes + 500, "a gap frame of `drop_newest` may still come"
    assert live.collected == 4 * taken == live.readings + live.in_gaps
    frames, damaged = file.read(Lane.LIVE, 0, 1_000)
    assert damaged == []
    gaps = [record.gap for _, frame in frames for record in decode_body(body_of(frame))[1] if isinstance(record, GapRecord)]
    assert sum(gap.count or 0 for gap in gaps) == live.in_gaps
    assert taken < 400 or gaps, "something had to give way"
    assert all(gap.reason in (GapReason.OVERFLOW, GapReason.THINNED) for gap in gaps)
    file.close()


@pytest.mark.parametrize(("before", "after"), [(NO_SEAL, KEY), (KEY, OTHER), (KEY, NO_SEAL)])
def test_a_buffer_is_given_another_key(tmp_path: Path, before: Seal, after: Seal) -> None:
    path = tmp_path / "b.db"
    write(path, range(600), before)
    assert rekey(path, before, after) == 600
    assert rekey(path, before, after) == 600, "again, as after a run that was cut short"
    file = opened(path, after)
    assert numbers(file) == list(range(600))
    assert len(file.marks("command/")) == 600
    file.close()
    assert (WORD.encode() in on_disk(path)) == (after is NO_SEAL)


def test_a_change_of_the_key_that_was_cut_short_is_not_mistaken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    write(path, range(600))
    with apsw.Connection(str(path)) as db:  # the first frames are through, the last cannot be opened
        third = Seal(bytes([7]) * 32).close(body(600))
        db.execute("update frame set body = ?, crc = ? where id = ?", (third, crc32(third), Lane.LIVE.code << 56 | 600))
    db.close()
    with pytest.raises(OutboxUnavailable):
        rekey(path, KEY, OTHER)
    for seal in (KEY, OTHER, NO_SEAL):
        with pytest.raises(OutboxUnavailable, match="cut short"):
            opened(path, seal)


def test_the_key_of_a_running_agent_is_not_changed_and_the_answer_says_to_stop_it(tmp_path: Path) -> None:
    file = opened(tmp_path / "b.db")
    with pytest.raises(OutboxUnavailable, match="stop it"):
        rekey(tmp_path / "b.db", KEY, OTHER)
    file.close()


def test_a_third_key_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    write(path, range(3))
    with pytest.raises(OutboxUnavailable, match="--from"):
        rekey(path, NO_SEAL, OTHER)
    file = opened(path)
    assert numbers(file) == [0, 1, 2]
    file.close()


def test_edgectl_makes_a_key_and_gives_it_to_a_buffer(tmp_path: Path) -> None:
    assert edgectl(tmp_path, "init", "--secret", "s")[0] == 0
    config = tmp_path / "edge.toml"
    key = tmp_path / "buffer.key"
    code, _, said = edgectl(tmp_path, "buffer", "make-key", str(key))
    assert (code, key.stat().st_mode & 0o777) == (0, 0o600)
    assert key.read_text().strip() not in said
    assert edgectl(tmp_path, "buffer", "make-key", str(key))[0] == 1, "a key is never overwritten"
    data = tmp_path / json.loads(edgectl(tmp_path, "config", "check", "-o", "json")[1])["data_dir"]
    data.mkdir(exist_ok=True)
    write(data / "buffer.db", range(3), NO_SEAL)
    config.write_text(config.read_text().replace('# key_file = "buffer.key"', f'key_file = "{key}"'))
    code, _, said = edgectl(tmp_path, "buffer", "rekey")
    assert (code, "3 frames" in said) == (0, True), said
    file = opened(data / "buffer.db", Seal(bytes.fromhex(key.read_text())))
    assert numbers(file) == [0, 1, 2]
    file.close()
    key.write_text("no key")
    code, _, said = edgectl(tmp_path, "config", "check")
    assert code == 3
    assert "make-key" in said
