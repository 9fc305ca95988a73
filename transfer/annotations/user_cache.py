"""Where the suite keeps what it can make again: its folder in the user's cache.

Standard library only.
"""

import os
from pathlib import Path


def cache_folder() -> Path:
    """XDG_CACHE_HOME/clove-suite, which may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clove-suite"
