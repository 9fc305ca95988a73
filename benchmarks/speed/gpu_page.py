"""The page of `clove speed gpu`, which stands beside its JSON file in results/speed: a record as people read it."""

from typing import Any


def line(cell: dict[str, Any]) -> str:
    """A cell in one line."""
    if "problem" in cell:
        return f"{cell['name']}: {cell['problem']}"
    return f"{cell['name']}: {cell['rate']:.4g} {cell['unit']}{_memory(cell)}"


def _memory(cell: dict[str, Any]) -> str:
    if cell["peak_memory_gb"] is None:
        return ""
    return f", {cell['peak_memory_gb']:.1f} GB"


def learned(record: dict[str, Any]) -> str:
    """A short training in one line."""
    if "problem" in record:
        return f"a short {record['name']}: {record['problem']}"
    verdict = "learns" if record["learns"] else "DOES NOT LEARN"
    return f"a short {record['name']} {verdict}: {record['what']} {record['start']:.3g} -> {record['end']:.3g}"


def page(record: dict[str, Any]) -> str:
    """A Markdown page."""
    described = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items() if version)
    lines = [
        f"# {', '.join(described['gpus']) or described['cpu']}, {record['started'][:10]}", "",
        f"`clove speed gpu --minutes {record['minutes']:g}`, measured once, on generated images; the file beside "
        "this one has all values.", "",
        f"{described['cpu']}, {described['cores']} cores; Python {described['python']}, {versions}, CUDA "
        f"{record['cuda']}.", "",
        "| | Median | Smallest to largest | Steps | Peak memory |", "|---|---|---|---|---|"]
    for cell in record["cells"]:
        if "problem" in cell:
            lines.append(f"| {cell['name']} | {cell['problem']} | | | |")
            continue
        spread = f"{cell['smallest']:.4g} to {cell['largest']:.4g}"
        memory = _memory(cell).removeprefix(", ") or "not measured"
        lines.append(f"| {cell['name']} | {cell['rate']:.4g} {cell['unit']} | {spread} | {cell['steps']} | {memory} |")
    lines.append("")
    for one in record["learns"]:
        lines += [f"{learned(one)[0].upper()}{learned(one)[1:]}.", ""]
    return "\n".join(lines)
