"""How a run is asked to stop, and its exit codes then. Each signal has one owner.

Stand-alone, `stop_signals` owns SIGINT, SIGTERM and SIGUSR2. Inside a job of a cluster the job's
own code owns them and hands `train` a function of its own instead.
"""

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator

from pretrain.common.stalls import ended_when_stalled

Stop = Callable[[], int]  # 0: go on; else the exit code to leave with after this step
COME_BACK = 75  # EX_TEMPFAIL: saved, wants to be started again
EXIT_CODES = {signal.SIGINT: 128 + signal.SIGINT, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGUSR2: COME_BACK}
FROM_OUTSIDE = {number: code for number, code in EXIT_CODES.items() if number != signal.SIGINT}


def never() -> int:
    """Nobody asks to stop."""
    return 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Yields a `Stop` that the first of SIGINT (130), SIGTERM (143) and SIGUSR2 (75) sets; the
    process goes on until it asks. A second SIGINT interrupts at once. After SIGTERM or SIGUSR2 a
    process that waits in vain is ended (pretrain/common/stalls.py)."""
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(EXIT_CODES[signal.Signals(number)])

    with handled(EXIT_CODES, remember), ended_when_stalled(FROM_OUTSIDE):
        yield lambda: next(iter(received), 0)


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Inside, these signals call `handler`; afterwards whatever they called before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
