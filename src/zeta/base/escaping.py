"""Text for a terminal or a log: control characters and invisible characters are written as escape sequences.

Names of parameters and files, and texts read from a file, may contain anything: sequences that colour or clear a
terminal, line breaks that imitate a line of output, marks that reverse the direction of text. JSON and other data keep
these characters.
"""

from __future__ import annotations


def visible(text: str) -> str:
    r"""The text on one line, with every character that is not printable as Python writes it in a string.

    >>> visible("w\x1b[31m\n\u202e")
    'w\\x1b[31m\\n\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def visible_lines(text: str) -> str:
    """As ``visible``, but keeps line breaks."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))
