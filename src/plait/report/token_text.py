"""Token text made visible: nothing in it can hide, reorder its surroundings, or join them.

Tokens are hostile input: they hold control characters, right-to-left overrides, zero-width joiners
and halves of characters. A token is shown as plain pieces and *marks*, short names that stand for
what could not be seen.
"""

import unicodedata
from collections.abc import Iterable
from itertools import groupby

_NAMES = {
    "\t": "⇥",
    "\n": "⏎",
    "\r": "␍",
    "\u00a0": "NBSP",
    "\u00ad": "SHY",
    "\u061c": "ALM",
    "\u200b": "ZWSP",
    "\u200c": "ZWNJ",
    "\u200d": "ZWJ",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2060": "WJ",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
}
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"  # letters and symbols without any ink
_CAN_HIDE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")


def pieces(text: str) -> list[str]:
    r"""Cut a token into plain text and marks in turn: even places are plain, odd ones marks.

    Plain text holds only characters that draw themselves, and spaces; a token made of spaces alone
    is one mark.

    >>> pieces(" a\u202eb")
    [' a', 'RLO', 'b']
    """
    return _in_turn(_runs(text))


def pieces_of_bytes(data: bytes) -> list[str]:
    """Cut a token's bytes as `pieces` does; bytes that are no UTF-8 become marks in hexadecimal.

    A character that is spread over tokens is so shown as the bytes that each of them holds.

    >>> pieces_of_bytes("é".encode()[:1] + b"t")
    ['', 'C3', 't']
    """
    runs: list[tuple[bool, str]] = []
    while data:
        try:
            text, data = data.decode(), b""
        except UnicodeDecodeError as error:
            text = data[: error.start].decode()
            broken, data = data[error.start : error.end], data[error.end :]
            runs += [*_runs(text), (True, broken.hex(" ").upper())]
        else:
            runs += _runs(text)
    return _in_turn(runs)


def _runs(text: str) -> list[tuple[bool, str]]:
    """Cut into (is a mark, text)."""
    if text and not text.strip(" "):
        return [(True, "·" * len(text))]
    runs = []
    for hidden, run in groupby(text, key=_can_hide):
        plain = "".join(run)
        if hidden:
            runs += [(True, _name(character)) for character in plain]
        elif unicodedata.category(plain[0]).startswith("M"):
            runs.append((False, "◌" + plain))  # an accent has nothing of its own to stand on
        else:
            runs.append((False, plain))
    return runs


def _in_turn(runs: Iterable[tuple[bool, str]]) -> list[str]:
    shown: list[str] = []
    for is_mark, text in runs:
        if is_mark == (len(shown) % 2 == 1):
            shown.append(text)
        else:
            shown += ["", text]
    return shown


def _can_hide(character: str) -> bool:
    if character == " ":
        return False
    return unicodedata.category(character) in _CAN_HIDE or character in _BLANK_LETTERS


def _name(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))  # the Control Pictures block
    return f"U+{ord(character):04X}"
