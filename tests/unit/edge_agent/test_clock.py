"""The agent's time: what nobody confirmed is moved once it is known, and a step of the machine's clock moves nothing by itself."""

from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import given

from edge_agent.domain.clock import RELEASED_MS, AgentClock, ClockQuality, Trust

TRUE_MS = 1_790_000_000_000
DAY_MS = 86_400_000


@dataclass
class FakeMachine:
    """A machine whose clock is `off_ms` from the truth; `run` lets time pass."""

    off_ms: int = 0
    true_ms: int = TRUE_MS
    up_ms: int = 5_000
    ntp: bool = False
    os_boot: str = "first"

    def wall_ms(self) -> int:
        return self.true_ms + self.off_ms

    def running_ms(self) -> int:
        return self.up_ms

    def synchronised(self) -> bool:
        return self.ntp

    def run(self, ms: int) -> None:
        self.true_ms += ms
        self.up_ms += ms


def clock_of(machine: FakeMachine, trust: Trust = Trust.AUTO, marks: dict[str, bytes] | None = None) -> AgentClock:
    return AgentClock(machine, trust, marks)  # type: ignore[arg-type]  # the same calls


def test_a_clock_kept_by_ntp_is_followed_and_its_times_are_final() -> None:
    machine = FakeMachine(ntp=True)
    clock = clock_of(machine)
    assert (clock.period, clock.now_ms(), clock.quality) == (0, TRUE_MS, ClockQuality.SYNCHRONISED)
    machine.off_ms = 5_000  # NTP put it right
    clock.poll()
    assert (clock.period, clock.now_ms()) == (0, TRUE_MS + 5_000)


def test_a_machine_that_starts_in_1970_stamps_from_the_last_known_time_and_is_put_right_by_the_cloud() -> None:
    machine = FakeMachine(off_ms=-TRUE_MS)
    clock = clock_of(machine)
    assert clock.quality is ClockQuality.UNSET
    stamped, period = clock.now_ms(), clock.period
    assert (stamped, period) == (RELEASED_MS, 1)
    machine.run(60_000)
    clock.learn(machine.true_ms, 20)
    assert (clock.period, clock.now_ms(), clock.quality) == (0, machine.true_ms, ClockQuality.CONFIRMED)
    assert clock.settled(period, stamped) == TRUE_MS
    assert clock.settled(period, stamped - 1) == stamped - 1, "a time from before the period is none of its stamps"


def test_ntp_that_comes_late_puts_the_readings_before_it_right() -> None:
    machine = FakeMachine(off_ms=-TRUE_MS)
    clock = clock_of(machine)
    stamped, period = clock.now_ms(), clock.period
    machine.run(1_000)
    machine.off_ms, machine.ntp = 0, True
    clock.poll()
    assert (clock.period, clock.quality) == (0, ClockQuality.SYNCHRONISED)
    assert clock.settled(period, stamped) == TRUE_MS


def test_a_jump_that_nobody_confirms_moves_nothing() -> None:
    machine = FakeMachine()
    clock = clock_of(machine)
    clock.learn(TRUE_MS, 10)
    assert clock.period == 0
    for jump in (400 * DAY_MS, -365 * DAY_MS):
        machine.off_ms = jump
        machine.run(1_000)
        clock.poll()
        assert abs(clock.now_ms() - machine.true_ms) < 10, "time goes on from where it was"
        period, stamped = clock.period, clock.now_ms()
        assert period > 0, "and somebody has to say whether that is right"
        clock.learn(machine.true_ms, 10)
        assert clock.settled(period, stamped) == stamped


def test_a_plausible_clock_is_believed_within_its_drift_and_corrected_beyond() -> None:
    for off_ms, moved in ((30_000, 0), (-30_000, 0), (3_600_000, -3_600_000)):
        machine = FakeMachine(off_ms=off_ms)
        clock = clock_of(machine)
        assert clock.quality is ClockQuality.UNSURE
        period, stamped = clock.period, clock.now_ms()
        clock.learn(machine.true_ms, 10)
        assert clock.settled(period, stamped) == stamped + moved
        assert clock.now_ms() == machine.true_ms


def test_an_answer_that_was_long_under_way_moves_nothing_within_what_it_leaves_open() -> None:
    machine = FakeMachine()
    clock = clock_of(machine)
    clock.learn(machine.true_ms + 20_000, 30_000)
    assert clock.now_ms() == machine.true_ms


def test_the_cloud_does_not_move_a_clock_that_ntp_keeps() -> None:
    machine = FakeMachine(ntp=True)
    clock = clock_of(machine)
    clock.learn(TRUE_MS + 3_600_000, 10)
    assert clock.now_ms() == TRUE_MS
    assert clock.summary()["cloud_offset_ms"] == 3_600_000


def test_a_trusted_system_clock_is_right_and_a_distrusted_one_waits_for_the_cloud_even_with_ntp() -> None:
    assert clock_of(FakeMachine(), Trust.SYSTEM).period == 0
    assert clock_of(FakeMachine(ntp=True), Trust.CLOUD).period > 0


def test_what_a_killed_agent_stamped_is_put_right_by_the_next_one_of_the_same_start_of_the_machine() -> None:
    machine = FakeMachine(off_ms=-TRUE_MS)
    first = clock_of(machine)
    stamped, period = first.now_ms(), first.period
    marks = first.take_marks()
    machine.run(120_000)
    second = clock_of(machine, marks=marks)
    assert second.period > period
    second.learn(machine.true_ms, 10)
    assert second.settled(period, stamped) == TRUE_MS
    third = clock_of(FakeMachine(off_ms=-TRUE_MS, os_boot="second"), marks=marks)
    third.learn(TRUE_MS, 10)
    assert third.shift(period) == (stamped, None), "another start of the machine: nobody can know"


def test_the_last_known_time_is_the_floor_of_the_next_start() -> None:
    machine = FakeMachine(ntp=True)
    floor = clock_of(machine).floor()
    assert floor is not None
    again = clock_of(FakeMachine(off_ms=-10 * DAY_MS), marks=dict([floor]))
    assert again.quality is ClockQuality.UNSET
    assert again.now_ms() == TRUE_MS
    assert again.floor() is None, "a guessed time is no floor"


@given(st.integers(-TRUE_MS, 10**12), st.integers(0, 10**9), st.integers(0, 10**9))
def test_whatever_the_clock_was_off_readings_are_in_order_and_right_once_it_is_known(off_ms: int, wait: int, more: int) -> None:
    machine = FakeMachine(off_ms=off_ms)
    clock = clock_of(machine)
    period = clock.period
    truths, stamps = [], []
    for pause in (wait, more):
        truths.append(machine.true_ms)
        stamps.append(clock.now_ms())
        machine.run(pause)
    clock.learn(machine.true_ms, 10)
    settled = [clock.settled(period, stamp) for stamp in stamps]
    assert settled == sorted(settled)
    allowed = 60_000 + (wait + more) // 1_000
    assert all(abs(time_ms - truth) <= allowed for time_ms, truth in zip(settled, truths, strict=True))


def test_strange_marks_are_left_out() -> None:
    assert clock_of(FakeMachine(), marks={"clock/7": b"no period", "clock/floor": b"-3"}).period == 1
