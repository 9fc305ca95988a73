"""Writes docs/code.md: every source file with the first line of its docstring.

    python docs/make_code_map.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "pretrain": "images -> backbone.safetensors",
    "transfer": "any checkpoint -> detectron2 -> metrics",
    "benchmarks": "what runs where, results -> tables",
}
HEAD = """# The code, file by file

Made by `python docs/make_code_map.py` from the first line of each file's docstring.
Data flows one way: `pretrain -> transfer -> benchmarks -> results`. To see the method, read
`pretrain/matcher.py` (eq. 1), `attention.py`, `loss.py` (eq. 2), `model.py`, `train.py`.
"""


def code_map() -> str:
    """The text of docs/code.md."""
    parts = [HEAD]
    for package, purpose in PACKAGES.items():
        parts.append(f"\n## {package}/: {purpose}\n")
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            parts.append(f"\n**`{folder.relative_to(ROOT)}/`** {_first_line(folder / '__init__.py')}\n\n")
            parts.append("| File | |\n|---|---|\n")
            for path in sorted(folder.glob("*.py")):
                if path.name != "__init__.py":
                    parts.append(f"| `{path.name}` | {_first_line(path)} |\n")
    return "".join(parts)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "/")


if __name__ == "__main__":
    (ROOT / "docs" / "code.md").write_text(code_map(), encoding="utf-8")
