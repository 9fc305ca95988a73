"""Links from the page to the files beside it: relative, and only to those that travel with it."""

import os
from pathlib import Path
from urllib.parse import quote


class Links:
    """`Links(page, roots)(path)`: the address of a file for the page, "" where the page lies outside of `roots`.

    A relative path from elsewhere would name folders that are nobody's business.
    """

    def __init__(self, page: Path, roots: list[Path]) -> None:
        self.folder = page.absolute().parent
        self.roots = [root.absolute() for root in roots]

    def __call__(self, path: Path) -> str:
        """Of a file or folder, with / at the end of the latter."""
        path = path.absolute()
        for root in self.roots:
            if self.folder.is_relative_to(root) and path.is_relative_to(root):
                return quote(os.path.relpath(path, self.folder)) + "/" * path.is_dir()
        return ""
