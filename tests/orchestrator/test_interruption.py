"""The first signal is a wish, the second one acts as it always did."""

import os
import signal
import threading

import pytest

from orchestrator.interruption import Interrupted, stop_on_signals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_first_signal_is_noted(signum, code):
    former = signal.getsignal(signum)
    with stop_on_signals() as stop:
        stop.check("all is well")
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
        with pytest.raises(Interrupted, match=f"stopped by {signum.name}: all is saved") as caught:
            stop.check("all is saved")
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) is former


@pytest.fixture
def interruptible():
    """Ctrl-C raises, whatever started the tests."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_second_signal_stops_at_once(interruptible):
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_signals_alone():
    found = []

    def work() -> None:
        with stop_on_signals() as stop:
            found.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
