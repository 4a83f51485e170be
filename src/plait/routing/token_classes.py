r"""Classes of tokens: what kind of text each token of a trace is, by a few stated rules.

The texts of a document's tokens, joined, are its text again. In it a *word* is a run of letters,
digits and underscores, in prose also with apostrophes between letters; accents belong to their
letters, and a character that is spread over several tokens (U+FFFD in the text of each) counts as
letters. A token takes the class of the first word that it has a part of, so that all pieces of
`return` are a keyword. The first rule that fits decides:

=============  ===================================================================================
class          rule
=============  ===================================================================================
number         the word begins with a digit or has no letter: `12`, `0x1F`, `1st`
keyword        in code: one of Python's `keyword.kwlist`
identifier     any other word in code; in prose one with an underscore inside (those at its ends
               are punctuation), or one that begins small and has a capital: `top_k`, `getName`
function word  in prose, from here on: one of `FUNCTION_WORDS`, whatever its case, up to its
               apostrophe
capitalised    it begins with a capital letter
word           any other with a letter
punctuation    no word, but a character of the Unicode categories P or S: marks and operators
layout         nothing but white space: blanks, indentation, new lines
other          the rest: special tokens, control characters, lone pieces of a character
=============  ===================================================================================

Documents of a domain in `CODE_DOMAINS` are code, save for comments (from `#` to the line's end) and
strings, which are read as prose (a string that is not closed ends with its line). Nothing knows
what a text means: in code of another language than Python, keywords are still Python's, and the
first word of a sentence counts as capitalised.
"""

import keyword
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.routing.trace import Trace

CLASSES = (
    "function word",
    "capitalised",
    "word",
    "keyword",
    "identifier",
    "number",
    "punctuation",
    "layout",
    "other",
)
PLACES = ("beginning", "continuation")
OUTSIDE = -1
"""place of a token without a part of a word: numbers are none"""

CODE_DOMAINS = ("code", "python")
_ENGLISH = """
    a an the this that these those some any no every each all both either neither such what which
    i you he she it we they me him her us them my your his its our their mine yours hers ours theirs
    myself yourself himself herself itself ourselves themselves one who whom whose there here
    about above across after against along among around as at before behind below beneath beside
    between beyond by down during except for from in inside into like near of off on onto out over
    past per since through throughout to toward towards under until up upon via with within without
    and but if nor or so than then though although because unless when where whereas whether while
    yet how why not also only too very just
    am is are was were be been being have has had having do does did doing done can could may might
    must shall should will would cannot don doesn didn isn aren wasn weren hasn haven hadn couldn
    wouldn shouldn mustn
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())
"""articles, pronouns, prepositions, conjunctions, auxiliaries; of don't what stands before 't"""

_PROSE_IN_CODE = re.compile(
    r"""\#[^\n]* | (\"{3}|'{3}).*?(?:\1|\Z) | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'?""",
    re.DOTALL | re.VERBOSE,
)
_SPECIAL = re.compile(r"<\|[^|]*\|>|</?s>|<(?:bos|eos|pad|unk)>")
# over the kinds of characters that `_kind` gives
_WORD_OF_CODE = re.compile("[LN_]+")
_WORD_OF_PROSE = re.compile("[LN_]+(?:'L+)*")


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """Class of each token, an index into CLASSES, and its place in its word, into PLACES."""

    class_N: npt.NDArray[np.int8]
    place_N: npt.NDArray[np.int8]


def token_classes(
    trace: Trace,
    token: Callable[[int], str],
    code_domains: Collection[str] = CODE_DOMAINS,
) -> TokenClasses:
    """Class of every token of a trace.

    Args:
        trace: its tokens, in document order.
        token: the text of a token.
        code_domains: domains whose documents are code.
    """
    ids_V, place_N = np.unique(trace.token_ids_N, return_inverse=True)
    texts_V = [token(int(id_)) for id_ in ids_V]
    texts = [texts_V[place] for place in place_N]
    begins = np.flatnonzero(np.diff(trace.document_N, prepend=-1))
    parts = [
        classes_of(texts[begin:end], trace.info.domains[trace.domain_N[begin]] in code_domains)
        for begin, end in zip(begins, [*begins[1:], len(texts)], strict=True)
    ]
    return TokenClasses(
        class_N=np.concatenate([part.class_N for part in parts]),
        place_N=np.concatenate([part.place_N for part in parts]),
    )


def classes_of(texts: Sequence[str], code: bool = False) -> TokenClasses:
    """Class of each token of one document, given the texts of its tokens in order."""
    texts = ["\0" if _SPECIAL.fullmatch(text) else text for text in texts]
    text = "".join(texts)
    kinds = text.translate({ord(character): _kind(character) for character in set(text)})
    words = list(_words(text, kinds, code))
    word_ends = [end for _, end, _ in words]
    class_N = np.empty(len(texts), dtype=np.int8)
    place_N = np.full(len(texts), OUTSIDE, dtype=np.int8)
    end = 0
    for row, piece in enumerate(texts):
        start, end = end, end + len(piece)
        at = bisect_right(word_ends, start)
        if at < len(words) and words[at][0] < end:
            begin, _, name = words[at]
            if name not in ("number", "other"):
                place_N[row] = PLACES.index("beginning" if begin >= start else "continuation")
        else:
            name = _between_words(kinds[start:end])
        class_N[row] = CLASSES.index(name)
    return TokenClasses(class_N=class_N, place_N=place_N)


def _words(text: str, kinds: str, code: bool) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and class of each word, in order."""
    done = 0
    for prose in _PROSE_IN_CODE.finditer(text) if code else ():
        yield from _words_of_code(text, kinds, done, prose.start())
        yield from _words_of_prose(text, kinds, prose.start(), prose.end())
        done = prose.end()
    yield from (_words_of_code if code else _words_of_prose)(text, kinds, done, len(text))


def _words_of_code(text: str, kinds: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    for found in _WORD_OF_CODE.finditer(kinds, start, end):
        if kinds[found.start()] == "N":
            name = "number"
        else:
            word = text[found.start() : found.end()]
            name = "keyword" if keyword.iskeyword(word) else "identifier"
        yield found.start(), found.end(), name


def _words_of_prose(text: str, kinds: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    for found in _WORD_OF_PROSE.finditer(kinds, start, end):
        whole = text[found.start() : found.end()]
        word = whole.strip("_")
        if not word:
            continue
        begin = found.start() + len(whole) - len(whole.lstrip("_"))
        head = re.split("['\u2019]", word)[0]
        lettered = any(c.isalpha() for c in head)
        if kinds[begin] == "N" or not lettered:
            name = "number" if "N" in kinds[begin : begin + len(head)] else "other"
        elif "_" in head or (head[0].islower() and any(c.isupper() for c in head)):
            name = "identifier"
        elif head.lower() in FUNCTION_WORDS:
            name = "function word"
        elif head[0].isupper():
            name = "capitalised"
        else:
            name = "word"
        yield begin, begin + len(word), name


def _between_words(kinds: str) -> str:
    """Class of a token that has no part of a word, from the kinds of its characters."""
    if set(kinds) & set("P_'"):
        return "punctuation"
    return "layout" if kinds and set(kinds) == {"S"} else "other"


def _kind(character: str) -> str:
    """L letter, N digit, S white space, P punctuation or symbol, O other; _ and ' for themselves.

    Marks go with letters, which they stand on, and so do pieces of a character.
    """
    if character in "'\u2019":
        return "'"
    if character == "_":
        return "_"
    if character.isspace():
        return "S"
    category = unicodedata.category(character)[0]
    if character == "\ufffd" or category in "LM":
        return "L"
    return category if category in "NP" else "P" if category == "S" else "O"
