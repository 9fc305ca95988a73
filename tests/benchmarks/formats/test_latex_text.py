"""Names of users as LaTeX: ASCII only, known letters as themselves, the others visible."""

import unicodedata

import pytest

from benchmarks.formats.latex_text import escape_latex


@pytest.mark.parametrize(("text", "shown"), [
    ("β-VAE", r"$\beta$-VAE"), ("Ω′", r"$\Omega$$^{\prime}$"), ("Ω", r"$\Omega$"), ("ΑΒ", "AB"), ("µ ± 1 × 2 → 3", (
        r"$\mu$ $\pm$ 1 $\times$ 2 $\rightarrow$ 3")),
    ("é ü ç Å ß ø", r"\'{e} \"{u} \c{c} \r{A} \ss{} \o{}"), ("naïve į̈", r"na\"{\i}ve \"{{[}U+012F{]}}"),
    ("e\u0301 x\u0302 β\u0302 ά ặ ị", r"\'{e} \^{x} \^{$\beta$} \'{$\alpha$} \u{\d{a}} \d{i}"),
    ("x² y₃ ½ ﬁ 𝛽 Ａ", r"x$^{2}$ y$_{3}$ 1/2 fi $\beta$ A"),
    ("日 한 😀 ą", r"{[}U+65E5{]} {[}U+D55C{]} {[}U+1F600{]} {[}U+0105{]}"),
    ("a--b --- ?` ''", "a-{}-b -{}-{}- ?{}` '{}'"), ("1–2", "1--2"),
    ("[a]* b", "{[}a{]}{*} b"), ("\u0301", "{[}U+0301{]}"), ("", "")])
def test_escape_latex(text: str, shown: str) -> None:
    assert escape_latex(text) == shown


def test_escape_latex__any_letter_gives_ascii_that_is_seen() -> None:
    for number in [*range(0x20, 0x3000), 0x1D6FD, 0x1F600, 0x10FFFF]:
        letter = chr(number)
        if unicodedata.category(letter) not in ("Cc", "Zs", "Zl", "Zp"):
            shown = escape_latex(letter)
            assert shown and shown.isascii(), hex(number)
