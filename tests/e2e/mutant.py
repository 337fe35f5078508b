"""Deliberately broken builds: a copy of the shipped rooms with one passage exchanged, to show that an oracle can fail."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.platform import ROOT

ROOMS = ("protocols", "edge_agent", "cloud", "firmware_sim")


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file`, `right` (which is there once) becomes `wrong`."""

    file: str
    right: str
    wrong: str


MUTANTS = {
    "no_idempotency": Mutant(
        "cloud/foundation/idempotency.py",
        "        if self._key is None:\n            return None\n        row = self._find(work)",
        "        if True:\n            return None\n        row = self._find(work)",
    ),
    "await_the_model": Mutant(
        "edge_agent/pipeline/refine.py",
        "        await self._intake.room()\n\n    def record",
        "        await self._intake.room()\n        await self.drain()\n\n    def record",
    ),
    "no_position_check": Mutant(
        "cloud/telemetry/model.py",
        """    if append.end.stream_id == held.stream_id and append.end.sequence <= held.sequence:
        return Verdict.HAVE
    return Verdict.APPLIED if append.start == held else Verdict.REFUSED
""",
        "    return Verdict.APPLIED\n",
    ),
    "no_watermark_check": Mutant(
        "protocols/edgelink/lanes.py",
        "return Decision(Verdict.DUPLICATE, self.committed)",
        "return Decision(Verdict.APPEND, self.committed)",
    ),
    "puback_before_commit": Mutant(
        "cloud/access/group.py",
        """            if len(group.writer):
                crash_point("access.before_commit")
""",
        """            if len(group.writer):
                group.release()
                await asyncio.sleep(0.05)
                crash_point("access.before_commit")
""",
    ),
    "acknowledge_before_commit": Mutant(
        "edge_agent/buffer/outbox.py",
        "        self._file.commit()\n        self._blocked = deque(parked)",
        "        self._report(done)\n        time.sleep(0.01)\n        self._file.commit()\n        self._blocked = deque(parked)",
    ),
    "believe_damaged_frames": Mutant("edge_agent/buffer/lane_rows.py", "        if zlib.crc32(stored) != crc:\n", "        if False:\n"),
    "refused_is_fine": Mutant(
        "edge_agent/buffer/outbox.py",
        "            return [(job, None, _meaning(error)) for job in writes]",
        "            return [(job, 1, None) for job in writes]",
    ),
    "believe_the_wall_clock": Mutant(
        "edge_agent/domain/clock.py",
        "        return self._base + self._machine.running_ms()\n\n    def monotonic",
        "        return self._machine.wall_ms()\n\n    def monotonic",
    ),
    "forget_commands": Mutant("edge_agent/pipeline/obey.py", "        if done is not None:\n", "        if done is None and False:\n"),
    "no_urgency": Mutant(
        "edge_agent/pipeline/forward.py",
        "            for lane in LANES:\n                held = state.lanes[lane]",
        "            for lane in reversed(LANES):\n                held = state.lanes[lane]",
    ),
    "drop_without_a_gap": Mutant(
        "edge_agent/buffer/shedding.py",
        "            self._lose(gone, head)\n        first, last",
        "            head is chosen[0] and self._lose(gone, head)\n        first, last",
    ),
    "back_up_the_metadata_later": Mutant(
        "cloud/backup/service.py",
        "                await asyncio.to_thread(copying.finish)\n",
        """                await asyncio.to_thread(copying.finish)
                await asyncio.sleep(1)
                (part / SQLITE).unlink()
                copy_database(self.database, part / SQLITE)
""",
    ),
    "acknowledge_rows_before_disk": Mutant(
        "edge_agent/southbound/serial_line.py",
        "            self._intake.when_durable(lambda: self._write(acknowledgement))",
        "            self._write(acknowledgement)",
    ),
    "forget_a_frame": Mutant(
        "cloud/ingest/frames.py",
        "                self._lost(session, frame, mark, decision.lost, registry, gateway, rows)\n            self._columns.into(",
        """                self._lost(session, frame, mark, decision.lost, registry, gateway, rows)
            header.seq % 100 == 7 or self._columns.into(""",
    ),
    "position_before_rows": Mutant(
        "cloud/telemetry/duckdb_store.py",
        """            grown = self._write(append, base)
            self._connection.execute(self._move, [append.end.stream_id, append.end.sequence, base])
""",
        """            self._connection.execute(self._move, [append.end.stream_id, append.end.sequence, base])
            self._connection.commit()
            self._connection.begin()
            grown = self._write(append, base)
""",
    ),
    "no_end": Mutant("edge_agent/__main__.py", "loop.add_signal_handler(number, stop.set)", "loop.add_signal_handler(number, print)"),
    "patient_link": Mutant("edge_agent/northbound/link.py", "max(1, keepalive_s * 3 // 4)", "max(1, keepalive_s * 8)"),
    "no_backoff": Mutant("edge_agent/domain/backoff.py", "        return full * (", "        return 0.001 * full * ("),
    "plain_uplink": Mutant("edge_agent/northbound/link.py", "        if not self._tls:\n", "        if True:\n"),
    "no_gap_for_a_lost_stream": Mutant(
        "cloud/ingest/worker.py",
        "evaluator.move(end, stream_lost(memory.received_ms, now_ms()) if lost else None)",
        "evaluator.move(end, None)",
    ),
    "newest_is_what_came_last": Mutant(
        "cloud/ingest/model.py", "        if (numbers.ts > numbers.ts[last[numbers.series]]).any():", "        if False:"
    ),
    "refuse_in_silence": Mutant(
        "cloud/ingest/evaluation.py",
        "reason: str, detail: str) -> None:\n        self._quarantined.append(",
        "reason: str, detail: str) -> None:\n        [].append(",
    ),
    "door_in_silence": Mutant("cloud/ingest/evaluation.py", "            note = decode_refusal(data)\n", "            return\n"),
    "patient_pool": Mutant("cloud/app.py", "pool_timeout_s=0.5", "pool_timeout_s=3.0"),
    "trip_over_toml": Mutant(
        "edge_agent/sections.py",
        "    except tomllib.TOMLDecodeError as problem:\n        raise refuse(str(path)",
        "    except ZeroDivisionError as problem:\n        raise refuse(str(path)",
    ),
    "no_watch": Mutant("edge_agent/guard.py", "if time.monotonic() - last > patience:", "if False:"),
    "no_gate": Mutant("cloud/access/gate.py", "        return self.ahead >= self.size", "        return False"),
    "die_of_a_payload": Mutant(
        "cloud/ingest/posts.py",
        "                post = decode(payload)\n",
        """                if b'"poison"' in payload:
                    import os
                    os.kill(os.getpid(), 9)
                post = decode(payload)
""",
    ),
    "condemn_nobody": Mutant("cloud/ingest/trail.py", "return self.deaths.get(spot, 0) >= DEATHS", "return False"),
    "hand_over_twice": Mutant(
        "cloud/devices/delivery.py",
        "                left = await self._downlink.deliver_command(order)\n            except NobodyAnswers:\n",
        """                left = await self._downlink.deliver_command(order)
                await self._downlink.deliver_command(order)
            except NobodyAnswers:
""",
    ),
    "synchronous_off": Mutant("edge_agent/buffer/frame_file.py", "pragma synchronous = full", "pragma synchronous = off"),
}


def mutant(name: str, into: Path, base: Path = ROOT) -> Path:
    """A copy of the code with this fault; fails when the code has moved on from under it."""
    code = into / f"code-{name}"
    for room in ROOMS:
        shutil.copytree(base / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
    change = MUTANTS[name]
    file = code / change.file
    file.write_text(mutated(name, file.read_text()))
    return code


def mutated(name: str, source: str) -> str:
    change = MUTANTS[name]
    assert source.count(change.right) == 1, f"the mutant {name} no longer applies to {change.file}: mend it"
    return source.replace(change.right, change.wrong)
