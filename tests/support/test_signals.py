"""Signals that ask to stop: caught once, insisted on by a second one, and what ignored them goes on ignoring them."""

import os
import signal
import subprocess
import sys

import pytest

from alexnet_dist.support.signals import CAUGHT, StopSignals

PROGRAM = """
import os, signal, sys, time
from alexnet_dist.support import signals
signals.ECHO = float(sys.argv[1])
with signals.StopSignals() as stop:
    for number in sys.argv[2:]:
        os.kill(os.getpid(), int(number))
        time.sleep(0.05)
    print("alive", stop.received)
"""


def run(echo, *numbers):
    command = [sys.executable, "-c", PROGRAM, str(echo), *(str(int(number)) for number in numbers)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_is_noted(number):
    assert run(60, number).stdout == "alive True\n"


@pytest.mark.parametrize("first", CAUGHT)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_ends_the_process(first, second):
    assert run(0, first, second).returncode == -second


def test_the_same_request_twice_is_one_request():
    """A batch system sends it to every process, and mpirun forwards its own."""
    assert run(60, signal.SIGTERM, signal.SIGTERM).stdout == "alive True\n"


def test_sigusr1_that_is_repeated_does_not_end_a_process_that_ends_by_itself():
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is before  # what this process starts would inherit that it is ignored
        with StopSignals(last=True):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.received
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_catches_again_after_a_library_has_taken_a_signal():
    before = signal.getsignal(signal.SIGHUP)
    with StopSignals() as stop:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
        stop.catch()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received
    assert signal.getsignal(signal.SIGHUP) == before
