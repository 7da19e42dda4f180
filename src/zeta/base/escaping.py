"""Text that reaches a terminal or a log: what would steer it, or is not seen, is written as an escape sequence.

Names of parameters, files and whatever a file says may hold anything: sequences that colour, clear or rename a
terminal, line breaks that fake a line of output, marks that turn the order of letters. Data keeps them as they are.
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
    """As ``visible``, for text whose line breaks are meant."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))
