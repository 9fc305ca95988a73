"""Who is asked to stop, and with which exit code."""

import signal

import pytest

from pretrain.common.signals import never, stop_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_stop_signals__the_first_one_decides(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert stop() == never() == 0
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert stop() == code
    assert signal.getsignal(number) is before


def test_stop_signals__a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop() == 0  # not reached
