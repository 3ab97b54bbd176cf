"""Signals that ask a run to stop are remembered, once."""

import contextlib
import os
import signal
import threading

import pytest

from tome_lightning.trainer.signals import RunStopped, StopSignals, leaving_at_ctrl_c


@pytest.fixture
def signals():
    stop = StopSignals()
    yield stop
    stop.restore()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_the_first_signal_is_remembered_and_the_handler_given_back(signals, signum):
    before = signal.getsignal(signum)
    signals.install()
    os.kill(os.getpid(), signum)
    assert signals.received == signum
    signals.restore()
    assert signal.getsignal(signum) == before
    assert RunStopped(signum).exit_code == 128 + signum


def test_a_second_one_has_its_usual_effect(signals):
    signals.install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_second_one_ends_a_process_whatever_handled_it_before(signals):
    """Lightning's own handler talks to other processes, wherever in a step this one is."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        signals._at -= 60
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_processes_it_has_started_are_told_but_not_of_ctrl_c(signals):
    told: list[int] = []
    signals.install(told.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert told == [signal.SIGTERM]
    signals.restore()
    signals.received = 0
    signals.install(told.append)
    os.kill(os.getpid(), signal.SIGINT)
    assert told == [signal.SIGTERM]


def test_a_forked_child_does_not_pass_signals_on(signals):
    told: list[int] = []
    signals.install(told.append)
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(len(told) + signals.received)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_that_a_shell_has_switched_off_stays_off(signals):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in the background
    try:
        signals.install()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signals.restore()
        signal.signal(signal.SIGINT, before)


def test_a_thread_has_no_signals_to_take_over(signals):
    thread = threading.Thread(target=signals.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_is_heard_while_libraries_are_imported_that_swallow_it():
    child = os.fork()
    if not child:
        with leaving_at_ctrl_c():
            for _ in range(2):
                with contextlib.suppress(BaseException):
                    signal.raise_signal(signal.SIGINT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    before = signal.getsignal(signal.SIGINT)
    with leaving_at_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
