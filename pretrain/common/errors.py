"""What a user's mistake looks like: one clear line and exit code 2, never a traceback."""

import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of OSError: a full disk, forbidden places, a file where a folder is meant or the other way round.
FIXED_BY_USER = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR,
                 errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
USER_ERROR, INTERRUPTED, UNREAD, KILLED = 2, 130, 141, 137


class UserError(ValueError):
    """A mistake that the user can fix: WHAT: expected X, found Y; FIX."""

    exit_code = USER_ERROR


class Killed(UserError):
    """Another process of the run was killed (SIGKILL, out of memory) or hangs: the same may go well
    when it is started again."""

    exit_code = KILLED


def refuse(*problems: tuple[object, str]) -> None:
    """Raise `UserError` with the message of the first (condition, message) whose condition holds."""
    for wrong, message in problems:
        if wrong:
            raise UserError(message)


def is_fixed_by_user(error: BaseException) -> bool:
    """Whether the system refused something for a reason that a user can do something about."""
    return isinstance(error, OSError) and error.errno in FIXED_BY_USER


def in_one_line(error: OSError) -> str:
    """What `is_fixed_by_user` is true of, for a user."""
    return (f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another folder, then run the "
            "same command again")


def quiet_threads() -> None:
    """Let threads (TensorBoard's) end without a word on what the main thread meets too, and reports."""
    def report(found: threading.ExceptHookArgs) -> None:
        if not is_fixed_by_user(found.exc_value):
            threading.__excepthook__(found)

    threading.excepthook = report


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that the memory of a GPU is full; torch is not imported for it."""
    text = str(error)
    named = type(error).__name__ == "OutOfMemoryError"
    return named or "CUDA error: out of memory" in text or "STATUS_ALLOC_FAILED" in text


@contextmanager
def fitting_the_gpu(advice: str) -> Iterator[None]:
    """Inside, a GPU whose memory is full is a `UserError`; `advice` names the option that helps."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the GPU has too little memory: {advice} ({reason:.120})") from None


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command-line entry point and leave with its exit code.

    `UserError` becomes one line on stderr and exit code 2 (`Killed`: 137), and so does what a user can fix in the
    file system. Ctrl-C becomes 130, a closed output pipe 141, as with the shell's own programs.
    Everything else is a bug of ours and keeps its traceback.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # names may hold letters that the terminal's encoding lacks
    quiet_threads()
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # `... | head` closed the pipe: nobody's error, but what was asked for is not done
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        sys.stderr.close()
        code = UNREAD
    except OSError as error:
        if not is_fixed_by_user(error):
            raise
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        code = USER_ERROR
    if sys.stdout is not None:  # closed by >&-
        sys.stdout.flush()
    sys.exit(code)
