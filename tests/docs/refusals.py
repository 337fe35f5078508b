"""docs/reference/refusals.md, made from the enum of reasons: what each means, what to do, how it is answered, and the test that provokes it."""

import ast
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from protocols.alink.codes import Code, code_of
from protocols.errors import Reason, Refused
from protocols.mqtt.events import reason_code
from protocols.mqtt.packets import ReasonCode
from protocols.refusals import ADVICE, API, DOOR, FILE, FRAME, PAYLOAD

TESTS = Path(__file__).parent.parent
CONNACKS = {Reason.BAD_CREDENTIALS: "CONNACK 4", Reason.NOT_AUTHORISED: "CONNACK 5", Reason.UNSUPPORTED_VERSION: "CONNACK 1"}
LATER = (DOOR,)  # where MQTT 5 says it with a code of its own; elsewhere the message was acknowledged, since it is on disk


def provoked(folder: Path = TESTS) -> dict[str, list[str]]:
    """Reason's member name -> tests marked with `@pytest.mark.refusal(Reason.X)`, as `path::name`."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            for reason in _reasons(node.decorator_list):
                found.setdefault(reason, []).append(f"{path.relative_to(folder.parent).as_posix()}::{node.name}")
    return found


def _reasons(decorators: Iterable[ast.expr]) -> list[str]:
    return [
        argument.attr
        for decorator in decorators
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.refusal"
        for argument in decorator.args
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Reason"
    ]


def untested(reasons: Iterable[StrEnum], tests: dict[str, list[str]]) -> list[str]:
    """Reasons that no test provokes."""
    return [reason.name for reason in reasons if not tests.get(reason.name)]


def page() -> str:
    """The page."""
    tests = provoked()
    parts = [
        "# Refusals\n\n",
        "Every way in which Hearthline refuses something. A reason is a stable word: the label of the counters\n",
        "`hearthline_access_refused_total` (front door) and `hearthline_ingest_quarantined_total` (payloads and frames), the `reason` of a\n",
        "quarantine entry, and the end of the `type` of an API problem. `hearthline quarantine show` prints the same advice in English and\n",
        "Chinese. A refusal delays nobody else: the tests named here send something good beside or behind it. Made by\n",
        "`python -m tests.docs.reference`.\n\n",
        "MQTT 3.1.1 has a code only in CONNACK; elsewhere its connection is closed. What is refused in a payload was acknowledged before,\n",
        "since it is on disk: an Alink message is answered with a code in its reply, and the good values of the same message are kept.\n",
    ]
    for where in (DOOR, PAYLOAD, FRAME, "field bus", FILE, API):
        reasons = [reason for reason in Reason if ADVICE[reason].where == where]
        parts.append(f"\n## {where[0].upper()}{where[1:]}\n\n| reason | meaning | what to do | MQTT 3.1.1 | MQTT 5 | Alink | API |\n")
        parts.append("|---|---|---|---|---|---|---|\n")
        for reason in reasons:
            advice = ADVICE[reason]
            old, new = _mqtt(reason)
            parts.append(
                f"| `{reason}` | {advice.meaning[0]} | {advice.next_step[0]} | {old} | {new} | {_alink(reason)} | {_api(reason)} |\n"
            )
    parts.append("\n## The tests\n\n| reason | provoked by |\n|---|---|\n")
    for reason in Reason:
        parts.append(f"| `{reason}` | {'<br>'.join(f'`{test}`' for test in tests.get(reason.name, []))} |\n")
    return "".join(parts)


def _mqtt(reason: Reason) -> tuple[str, str]:
    if ADVICE[reason].where not in LATER and reason is not Reason.BAD_CHECKSUM:
        return "", ""
    code = reason_code(reason)
    said = "closed" if code is ReasonCode.UNSPECIFIED_ERROR else f"`0x{int(code):02x}`"
    return CONNACKS.get(reason, "closed"), said


def _alink(reason: Reason) -> str:
    if ADVICE[reason].where != PAYLOAD or reason is Reason.UNEXPECTED_ERROR:
        return ""
    code = code_of(Refused(reason, ""))
    named = reason in (Reason.UNKNOWN_IDENTIFIER, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE, Reason.INTEGER_TOO_LARGE, Reason.BAD_TIME)
    return f"200, named in `data`; {int(code)} for a whole message" if named else str(int(Code(code)))


def _api(reason: Reason) -> str:
    return "422" if ADVICE[reason].where in (API, PAYLOAD) and reason is not Reason.UNEXPECTED_ERROR else ""
