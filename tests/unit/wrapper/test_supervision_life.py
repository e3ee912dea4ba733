"""Supervision under everything that can happen, in any order: what holds whatever comes."""

from __future__ import annotations

import signal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudtaser.wrapper import supervision
from cloudtaser.wrapper.supervision import Command, Supervision

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
CODES = st.sampled_from([0, 1, 2, 77, 126, 127, 129, 130, 137, 139, 143, 255])
SIGNALS = st.sampled_from(ENDS) | st.sampled_from([int(number) for number in signal.valid_signals()])
KILLED_BY_SIGHUP = 128 + signal.SIGHUP
GRACE, PROBATION = 5.0, 10.0


class Life(RuleBasedStateMachine):
    """The world round a Supervision: one process at most, its group, and somebody who sends signals."""

    @initialize(sighup=st.booleans(), terminal=st.booleans(), shell=st.booleans())
    def begin(self, sighup: bool, terminal: bool, shell: bool) -> None:
        self.sighup = sighup
        self.machine = Supervision(
            grace=GRACE, probation=PROBATION, terminal=terminal, shell=shell, sighup=sighup
        )
        self.now = 0.0
        self.versions = 0
        self.running: int | None = None  # the values that the process has
        self.left = False  # something is left of a group whose leader ended
        self.group_told_to_die = False
        self.lived_with = {1}  # values that an application lived with past the probation, and the first ones
        self.since = 0.0
        self.last_code: int | None = None
        self.exit: int | None = None
        self.told_to_end = False
        self.ever_started = False
        self.fails_to_fork = False
        self.starts = 0  # since there were new values

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            argument: Any = command.argument
            if command.kind == supervision.START:
                self.start(argument)
            elif command.kind == supervision.RENEW:
                assert self.sighup
                assert self.running is not None
                self.running, self.since = argument, self.now
            elif command.kind == supervision.SEND:
                self.group_told_to_die |= argument == signal.SIGKILL
            elif command.kind == supervision.CLEAR:
                self.group_told_to_die = True
            elif command.kind == supervision.EXIT:
                assert self.exit is None, "it ends once"
                self.exit = argument

    def start(self, values: int) -> None:
        assert self.exit is None, "nothing is started after the end"
        assert self.running is None, "never two applications"
        assert not self.left or self.group_told_to_die, "nothing beside what was not even told to end"
        assert not self.told_to_end, "an end that was asked for always wins"
        assert values == self.versions or values in self.lived_with, "the newest, or proven ones"
        if self.fails_to_fork:
            self.carry_out(self.machine.not_started(126, self.now))
            return
        self.running, self.left, self.group_told_to_die, self.since = values, False, False, self.now
        self.ever_started = True
        self.starts += 1
        assert self.starts <= 3, (
            "the same values, a listener's second try with them, the last good ones; then it ends"
        )
        self.machine.started()

    @precondition(lambda self: self.exit is None)
    @rule(fails=st.booleans())
    def values(self, fails: bool) -> None:
        self.versions += 1
        self.starts = 0
        self.fails_to_fork = fails and self.ever_started
        self.carry_out(self.machine.values(self.versions, self.now))

    @precondition(lambda self: self.exit is None)
    @rule(number=SIGNALS, ignored=st.booleans())
    def signalled(self, number: int, ignored: bool) -> None:
        was_running, started = self.running is not None, self.ever_started
        if number == signal.SIGTERM and started:
            self.told_to_end = True
        commands = self.machine.signal(number, ignored=ignored)
        if started:
            assert Command(supervision.SEND, number) in commands, "every signal is passed on"
        self.carry_out(commands)
        if number in ENDS and started and not was_running:
            assert self.exit == self.last_code, "between two lives an end is an end"
        if not started and self.exit is not None:
            assert self.exit == 128 + number

    @precondition(lambda self: self.exit is None and self.running is not None)
    @rule(code=CODES, left=st.booleans())
    def ends(self, code: int, left: bool) -> None:
        if self.now >= self.since + PROBATION:
            self.carry_out(self.machine.tick(self.now))  # as the supervisor would have done by now
        before, self.running, self.left, self.last_code = self.running, None, left, code
        self.carry_out(self.machine.exited(code, self.now, left=left))
        if self.exit is not None:
            assert self.exit == code, "the exit code is the application's"
        assert self.running != before or code == KILLED_BY_SIGHUP, "no crash is repeated"
        if self.told_to_end:
            assert self.exit == code, "after SIGTERM its end is the end"

    @precondition(lambda self: self.exit is None and self.left)
    @rule()
    def rest_ends(self) -> None:
        self.left = False
        if self.machine.is_clearing:
            self.carry_out(self.machine.cleared(self.now))

    @precondition(lambda self: self.exit is None)
    @rule(
        stop=st.sampled_from([signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP]),
        ours=st.booleans(),
    )
    def stops(self, stop: int, ours: bool) -> None:
        self.carry_out(self.machine.stopped(stop, ours=ours))

    @precondition(lambda self: self.exit is None)
    @rule(seconds=st.sampled_from([0.01, 1.0, 4.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        """Never past a deadline without a tick, as the loop would have it."""
        until = self.now + seconds
        for _ in range(100):
            deadline = self.machine.deadline
            if self.exit is not None or deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.prove()
            self.carry_out(self.machine.tick(self.now))
        else:
            raise AssertionError("deadlines without end")
        self.now = until
        self.prove()

    @precondition(lambda self: self.exit is not None)
    @rule(sighup=st.booleans())
    def another_container(self, sighup: bool) -> None:
        """After the end nobody asks any more."""
        self.begin(sighup, False, False)

    def prove(self) -> None:
        if self.running is not None and self.now >= self.since + PROBATION:
            self.lived_with.add(self.running)

    @invariant()
    def it_never_waits_for_nothing(self) -> None:
        if self.exit is not None or not self.ever_started or self.running is not None:
            return
        assert self.machine.deadline is not None, "without an application there is always a next step"

    @invariant()
    def a_grace_is_bounded(self) -> None:
        deadline = self.machine.deadline
        if deadline is not None:
            assert deadline <= self.now + max(GRACE, PROBATION)


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
