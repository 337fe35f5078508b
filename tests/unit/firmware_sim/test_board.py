"""What the demo shows."""

import io

from rich.console import Console

from firmware_sim.board import Board, DeviceLine, plain

LINES = [DeviceLine("meter-1", "gateway", True, 1_600, 1_440, 200, 1), DeviceLine("stove-1", "direct", False, 400, 400, 0, 0)]


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = plain(LINES, None)
    assert text == "produced 2000  buffered ?  stored 1840  gaps 1  lag: meter-1 0.2 s, stove-1 0.0 s (offline)"


def test_on_a_terminal_there_is_a_table_that_ends_with_the_demo() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Board(console) as board:
        board.say("everything runs")
        board.show(LINES, 160)
    board.end()
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "meter-1" in output.getvalue()
    assert "everything runs" in output.getvalue()
