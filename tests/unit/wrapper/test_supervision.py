"""Supervision as a script: what is reported, and what is to be done about it."""

from __future__ import annotations

from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN, SIGUSR1

import pytest

from cloudtaser.wrapper.supervision import (
    CLEAR,
    EXIT,
    FOREGROUND,
    INFORM,
    RENEW,
    SEND,
    START,
    SUSPEND,
    WARN,
    Command,
    Supervision,
)


def quiet(commands: list[Command]) -> list[Command]:
    return [command for command in commands if command.kind not in (INFORM, WARN)]


@pytest.fixture
def supervision() -> Supervision:
    """A running application with the values "old"."""
    machine = Supervision(grace=5, probation=10)
    assert machine.values("old", 0) == [Command(START, "old")]
    return machine


def rotate(machine: Supervision, values: str, now: float) -> None:
    assert quiet(machine.values(values, now)) == [Command(SEND, SIGTERM), Command(SEND, SIGCONT)]
    assert quiet(machine.exited(143, now + 1)) == [Command(START, values)]


def test_the_wrapper_ends_as_the_application_does(supervision: Supervision) -> None:
    assert supervision.exited(7, 1) == [Command(EXIT, 7)]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP, SIGUSR1, 64])
def test_signals_go_to_the_application(supervision: Supervision, number: int) -> None:
    assert supervision.signal(number) == [Command(SEND, number)]


def test_before_there_is_an_application_a_signal_ends_the_wrapper() -> None:
    machine = Supervision(grace=5, probation=10)
    assert machine.signal(SIGUSR1) == []
    assert machine.signal(SIGTERM) == [Command(EXIT, 143)]


def test_a_signal_that_was_ignored_at_the_start_does_not_end_the_wait_for_secrets() -> None:
    machine = Supervision(grace=5, probation=10)
    assert machine.signal(SIGHUP, ignored=True) == []  # nohup
    assert machine.signal(SIGHUP) == [Command(EXIT, 129)]


def test_the_application_may_handle_what_was_ignored_at_the_start(supervision: Supervision) -> None:
    assert supervision.signal(SIGHUP, ignored=True) == [Command(SEND, SIGHUP)]


def test_new_values_restart_the_application(supervision: Supervision) -> None:
    rotate(supervision, "new", 0)


def test_an_application_that_does_not_stop_is_killed_after_the_grace(supervision: Supervision) -> None:
    supervision.values("new", 100)
    assert supervision.tick(104.9) == []
    assert quiet(supervision.tick(105)) == [Command(SEND, SIGKILL)]
    assert supervision.deadline is None
    assert quiet(supervision.exited(137, 106)) == [Command(START, "new")]


def test_values_that_change_again_during_the_stop_cause_no_second_restart(supervision: Supervision) -> None:
    supervision.values("new", 0)
    assert supervision.values("newer", 1) == []
    assert quiet(supervision.exited(0, 2)) == [Command(START, "newer")]


def test_a_crash_soon_after_a_rotation_goes_back_to_the_last_good_values(supervision: Supervision) -> None:
    rotate(supervision, "bad", 0)
    assert quiet(supervision.exited(1, 5)) == [Command(CLEAR), Command(START, "old")]
    assert supervision.exited(1, 6) == [
        Command(EXIT, 1)
    ]  # with the old ones it is the application's own affair


def test_values_are_good_once_the_application_lived_with_them(supervision: Supervision) -> None:
    rotate(supervision, "new", 0)
    assert supervision.tick(11) == []
    rotate(supervision, "bad", 20)
    assert quiet(supervision.exited(139, 22)) == [Command(CLEAR), Command(START, "new")]


def test_a_crash_after_the_probation_is_the_applications_own(supervision: Supervision) -> None:
    rotate(supervision, "new", 0)
    supervision.tick(11)
    assert supervision.exited(1, 12) == [Command(EXIT, 1)]


def test_success_soon_after_a_rotation_is_no_crash(supervision: Supervision) -> None:
    rotate(supervision, "new", 0)
    assert supervision.exited(0, 2) == [Command(EXIT, 0)]


def test_a_rotation_during_the_probation_keeps_the_last_good_values(supervision: Supervision) -> None:
    rotate(supervision, "unproven", 0)
    rotate(supervision, "bad", 2)
    assert quiet(supervision.exited(1, 4)) == [Command(CLEAR), Command(START, "old")]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_shutdown_during_a_rotation_wins(supervision: Supervision, number: int) -> None:
    supervision.values("new", 0)
    assert supervision.signal(number) == [Command(SEND, number)]
    assert supervision.exited(143, 1) == [Command(EXIT, 143)]


def test_after_sigterm_no_rotation_begins_and_no_crash_is_undone(supervision: Supervision) -> None:
    rotate(supervision, "new", 0)
    supervision.signal(SIGTERM)
    said = supervision.values("newer", 2)
    assert quiet(said) == []
    assert supervision.exited(1, 3) == [Command(EXIT, 1)]


def test_an_application_that_survives_sigterm_is_said_to_keep_what_it_has(supervision: Supervision) -> None:
    supervision.signal(SIGTERM)
    for values in ("newer", "newest"):
        (said,) = supervision.values(values, 2)
        assert said.kind == WARN
        assert "told to end" in str(said.argument)


def test_a_job_that_the_terminal_stops_stops_the_wrapper_too() -> None:
    machine = Supervision(grace=5, probation=10, terminal=True, shell=True)
    machine.values("old", 0)
    assert machine.stopped(SIGTSTP, ours=False) == [Command(SUSPEND)]
    assert machine.signal(SIGCONT) == [Command(FOREGROUND), Command(SEND, SIGCONT)]
    assert machine.stopped(SIGTTIN, ours=True) == [Command(FOREGROUND), Command(SEND, SIGCONT)]
    assert machine.stopped(SIGSTOP, ours=False) == []


def test_where_nobody_could_resume_it_ctrl_z_has_no_effect() -> None:
    machine = Supervision(grace=5, probation=10, terminal=True, shell=False)
    machine.values("old", 0)
    assert machine.stopped(SIGTSTP, ours=False) == [Command(SEND, SIGCONT)]


def test_without_a_terminal_a_stopped_application_stays_stopped(supervision: Supervision) -> None:
    assert supervision.stopped(SIGTSTP, ours=False) == []


def test_what_the_application_left_behind_has_the_rest_of_the_grace(supervision: Supervision) -> None:
    """A shell is gone at once; the server that it started still has requests to finish."""
    supervision.values("new", 0)
    assert supervision.exited(143, 0.1, left=True) == []
    assert supervision.is_clearing
    assert supervision.tick(4.9) == []
    assert supervision.cleared(4.95) == [Command(START, "new")]
    assert not supervision.is_clearing


def test_what_does_not_end_with_the_application_is_killed_after_the_grace(supervision: Supervision) -> None:
    supervision.values("new", 0)
    supervision.exited(143, 0.1, left=True)
    assert quiet(supervision.tick(5)) == [Command(SEND, SIGKILL)]
    assert supervision.cleared(5.1) == [Command(START, "new")]


def test_what_even_sigkill_does_not_end_holds_up_no_restart(supervision: Supervision) -> None:
    supervision.values("new", 0)
    supervision.exited(143, 0.1, left=True)
    supervision.tick(5)
    said = supervision.tick(6.1)
    assert said[0].kind == WARN
    assert quiet(said) == [Command(START, "new")]


def test_values_that_change_while_the_rest_ends_are_the_ones_to_start_with(supervision: Supervision) -> None:
    supervision.values("new", 0)
    supervision.exited(143, 0.1, left=True)
    assert supervision.values("newer", 0.2) == []
    assert supervision.cleared(1) == [Command(START, "newer")]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGQUIT])
def test_a_shutdown_while_the_rest_ends_gives_the_applications_code(
    supervision: Supervision, number: int
) -> None:
    supervision.values("new", 0)
    supervision.exited(9, 0.1, left=True)
    assert supervision.signal(SIGUSR1) == [Command(SEND, SIGUSR1)]
    assert supervision.signal(number) == [Command(SEND, number), Command(EXIT, 9)]


def test_after_a_crash_the_rest_is_killed_before_the_last_good_values_are_back(
    supervision: Supervision,
) -> None:
    rotate(supervision, "bad", 0)
    assert quiet(supervision.exited(1, 2, left=True)) == [Command(CLEAR)]
    assert supervision.cleared(2.1) == [Command(START, "old")]
    assert supervision.deadline is None  # the good ones are on no probation


@pytest.mark.parametrize("code", [130, 131, 143])
def test_who_ends_the_application_soon_after_a_rotation_has_his_way(
    supervision: Supervision, code: int
) -> None:
    rotate(supervision, "new", 0)
    assert supervision.exited(code, 1) == [Command(EXIT, code)]


def test_an_application_that_is_interrupted_soon_after_a_rotation_did_not_crash(
    supervision: Supervision,
) -> None:
    rotate(supervision, "new", 0)
    assert supervision.signal(SIGINT) == [Command(SEND, SIGINT)]
    assert supervision.exited(1, 1) == [Command(EXIT, 1)]


def test_a_restart_that_gets_no_process_is_tried_again(supervision: Supervision) -> None:
    supervision.started()
    rotate(supervision, "new", 0)
    assert supervision.not_started(126, 1) == []
    assert supervision.tick(1.9) == []
    assert supervision.tick(2) == [Command(START, "new")]
    assert supervision.not_started(126, 2) == []
    assert supervision.values("newer", 2.5) == []
    assert supervision.tick(3) == [Command(START, "newer")]
    supervision.started()
    assert quiet(supervision.exited(1, 4)) == [Command(CLEAR), Command(START, "old")]


def test_a_restart_that_never_gets_a_process_ends_after_a_while(supervision: Supervision) -> None:
    supervision.started()
    rotate(supervision, "new", 0)
    now = 1.0
    while not (said := supervision.not_started(126, now)):
        now += 1
        assert supervision.tick(now) == [Command(START, "new")]
    assert said == [Command(EXIT, 126)]
    assert now == 30


def test_new_values_that_cannot_be_delivered_give_way_to_those_before(supervision: Supervision) -> None:
    supervision.started()
    rotate(supervision, "new", 0)
    assert quiet(supervision.not_started(69, 1, undelivered=True)) == []
    assert supervision.tick(1) == [Command(START, "old")]
    supervision.started()
    assert supervision.exited(3, 2) == [Command(EXIT, 3)]


def test_what_is_told_by_sighup_is_said_once_it_is_true(listener: Supervision) -> None:
    told = [command.kind for command in listener.values("new", 5)]
    assert told == [RENEW, SEND, INFORM]


def test_a_first_start_that_gets_no_process_is_the_end(supervision: Supervision) -> None:
    assert supervision.not_started(126, 1) == [Command(EXIT, 126)]


def test_a_shutdown_while_a_process_is_waited_for_wins(supervision: Supervision) -> None:
    supervision.started()
    rotate(supervision, "new", 0)
    supervision.not_started(126, 1)
    assert supervision.signal(SIGTERM) == [Command(SEND, SIGTERM), Command(EXIT, 143)]


@pytest.fixture
def listener() -> Supervision:
    """A running application that takes new values when SIGHUP tells it to."""
    machine = Supervision(grace=5, probation=10, sighup=True)
    assert machine.values("old", 0) == [Command(START, "old")]
    machine.started()
    return machine


def test_an_application_that_listens_is_told_by_sighup_and_not_restarted(listener: Supervision) -> None:
    assert quiet(listener.values("new", 5)) == [Command(RENEW, "new"), Command(SEND, SIGHUP)]
    assert listener.tick(15) == []
    assert listener.exited(129, 20) == [Command(EXIT, 129)]  # another's SIGHUP, long after ours


def test_an_application_that_dies_of_sighup_is_started_with_the_new_values(listener: Supervision) -> None:
    listener.values("new", 5)
    assert quiet(listener.exited(129, 5.1)) == [Command(CLEAR), Command(START, "new")]
    assert quiet(listener.exited(1, 6)) == [Command(CLEAR), Command(START, "old")]


def test_a_crash_soon_after_sighup_goes_back_to_the_last_good_values(listener: Supervision) -> None:
    listener.values("bad", 5)
    listener.values("worse", 7)
    assert quiet(listener.exited(1, 8)) == [Command(CLEAR), Command(START, "old")]


def test_values_that_cannot_be_brought_to_the_application_restart_it(listener: Supervision) -> None:
    listener.values("new", 5)
    assert quiet(listener.not_renewed(5)) == [Command(SEND, SIGTERM), Command(SEND, SIGCONT)]
    assert listener.exited(143, 6) == [Command(START, "new")]


def test_after_sigterm_no_sighup_is_sent(listener: Supervision) -> None:
    listener.signal(SIGTERM)
    assert quiet(listener.values("new", 5)) == []
    assert listener.not_renewed(5) == []
