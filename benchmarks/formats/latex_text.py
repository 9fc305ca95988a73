"""Any text as LaTeX shows it: names come from users, and pdflatex stops at letters that its fonts lack.

The outcome is ASCII and needs no package: Greek and common symbols become math, accents LaTeX's
own, and what is left a visible [U+65E5]. Standard library only.
"""

import string
import unicodedata

_ASCII = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}", "|": r"\textbar{}",
          # At the start of a row they would belong to the \\ before them.
          "[": "{[}", "]": "{]}", "*": "{*}",
          "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
_GREEK = "αβγδεζηθικλμνξπρςστυφχψωϵϑϖϱϕΓΔΘΛΞΠΣΥΦΨΩ"
_GREEK_NAMES = ("alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau "
                "upsilon varphi chi psi omega epsilon vartheta varpi varrho phi Gamma Delta Theta Lambda Xi Pi Sigma "
                "Upsilon Phi Psi Omega")
_MATH = {
    **{letter: f"\\{name}" for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)},
    "±": r"\pm", "∓": r"\mp", "×": r"\times", "÷": r"\div", "·": r"\cdot", "⋅": r"\cdot", "•": r"\bullet",
    "∘": r"\circ", "°": r"^\circ", "−": "-", "∗": r"\ast", "⋆": r"\star", "★": r"\star", "′": r"^{\prime}",
    "″": r"^{\prime\prime}", "‴": r"^{\prime\prime\prime}", "→": r"\rightarrow", "←": r"\leftarrow", "↑": r"\uparrow",
    "↓": r"\downarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇐": r"\Leftarrow", "⇔": r"\Leftrightarrow",
    "↦": r"\mapsto", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "≡": r"\equiv", "∼": r"\sim",
    "≪": r"\ll", "≫": r"\gg", "«": r"\ll", "»": r"\gg", "∞": r"\infty", "∂": r"\partial", "∇": r"\nabla", "∑": r"\sum",
    "∏": r"\prod", "√": r"\surd", "∈": r"\in", "∪": r"\cup", "∩": r"\cap", "⊂": r"\subset", "⊆": r"\subseteq",
    "∅": r"\emptyset", "¬": r"\neg", "∧": r"\wedge", "∨": r"\vee", "⊕": r"\oplus", "⊗": r"\otimes", "∥": r"\parallel",
    "ℓ": r"\ell"}
_TEXT = {
    **_ASCII, **{letter: f"${name}$" for letter, name in _MATH.items()},
    # Greek letters that look like Latin ones.
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True)),
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}",
    "Ł": r"\L{}", "ı": r"\i{}", "ȷ": r"\j{}", "§": r"\S{}", "¶": r"\P{}", "†": r"\dag{}", "‡": r"\ddag{}",
    "©": r"\copyright{}", "®": r"\textregistered{}", "™": r"$^{\mathrm{TM}}$", "£": r"\pounds{}", "…": r"\ldots{}",
    "–": "--", "—": "---", "‐": "-", "‑": "-", "‘": "`",
    "’": "'", "“": "``", "”": "''", "‚": ",", "„": ",,", "¡": "!`", "¿": "?`", "⁄": "/", "\u00a0": "~"}
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
            "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b"}
_LIGATURES = ("--", "``", "''", ",,", "?`", "!`", "<<", ">>")  # of two letters LaTeX makes another
_BELOW = "dcb"  # an i keeps its dot


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is, or with a visible substitute."""
    shown: list[str] = []
    for letter in unicodedata.normalize("NFC", text):
        if letter in _ACCENTS and shown:  # no letter of its own has this accent
            shown[-1] = f"\\{_ACCENTS[letter]}{{{shown[-1]}}}"
        else:
            if shown and shown[-1] + letter in _LIGATURES:
                shown.append("{}")
            shown.append(_letter(letter) or f"{{[}}U+{ord(letter):04X}{{]}}")
    return "".join(shown)


def _letter(letter: str) -> str:
    """One letter as LaTeX; empty for what has no form here."""
    if letter in _TEXT:
        return _TEXT[letter]
    if " " <= letter <= "~":
        return letter
    kind, *codes = unicodedata.decomposition(letter).split() or [""]
    if kind in ("<super>", "<sub>") and len(codes) == 1:
        small, sign = chr(int(codes[0], 16)), {"<super>": "^", "<sub>": "_"}[kind]
        if small not in string.ascii_letters + string.digits:
            return ""
        return f"${sign}{{{small}}}$"
    # Styled letters, wide ones, fractions, ligatures.
    if kind in ("<font>", "<wide>", "<fraction>", "<compat>"):
        parts = [_letter(chr(int(code, 16))) for code in codes]
        if not all(parts):
            return ""
        return "".join(parts)
    base, *marks = unicodedata.normalize("NFD", letter)
    if not marks or not _ACCENTS.keys() >= set(marks):
        return ""
    found = _letter(base)
    for mark in marks:
        accent = _ACCENTS[mark]
        if base in "ij" and accent not in _BELOW and found == base:
            found = f"\\{base}"
        found = found and f"\\{accent}{{{found}}}"
    return found
