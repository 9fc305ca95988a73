"""Names of files in one line of a log or a message: they may hold line breaks. Standard library only."""

import re

ESCAPE = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{8})")


def escaped(name: str) -> str:
    """`name` in one line and with no ": " in it: a backslash and what is not printable are written as
    escapes. Bytes that are no UTF-8 stay what they are."""
    letters = []
    for letter in name.replace(": ", ":\0"):
        number = ord(letter)
        if letter == "\0":  # no file name holds one
            letters.append("\\x20")
        elif 0xDC80 <= number <= 0xDCFF or (letter.isprintable() and letter != "\\"):  # a byte that is no UTF-8
            letters.append(letter)
        else:
            letters.append(f"\\x{number:02x}" if number < 256 else f"\\u{number:08x}")
    return "".join(letters)


def unescaped(text: str) -> str:
    """The name that `escaped` made `text` of."""
    return ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
