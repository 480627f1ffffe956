"""Words: text -> tokens and back. Spaces between words are not modelled; line ends are tokens."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any, Literal

from throughtime.tasks.errors import Failure

Chinese = Literal["characters", "segmented", "jieba"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_LATIN_WORD = rf"[^\W{_HAN}]+(?:['’][^\W{_HAN}]+)*"  # don't and l'eau are one word
_SPACE_BEFORE_NONE = frozenset(",.;:!?)]}%’”…")
_SPACE_AFTER_NONE = frozenset("([{$#‘“")


def chinese_mode(text: str) -> Chinese:
    """How Chinese text becomes words: as segmented by spaces, by jieba if installed, else by character."""
    han = len(re.findall(f"[{_HAN}]", text))
    # Ordinary Chinese has hardly a space between two Chinese characters; segmented text has one in three.
    if han and len(re.findall(f"(?<=[{_HAN}]) +(?=[{_HAN}])", text)) > 0.1 * han:
        return "segmented"
    if han and importlib.util.find_spec("jieba") is not None:
        return "jieba"
    return "characters"


def split_words(text: str, chinese: Chinese) -> list[str]:
    """The tokens of `text`: words, single punctuation marks, and line ends."""
    if chinese == "segmented":
        return re.findall(rf"\n|[{_HAN}]+|{_LATIN_WORD}|[^\s\w]", text)
    if chinese == "jieba":
        pieces = re.findall(rf"\n|[{_HAN}]+|{_LATIN_WORD}|[^\s\w]", text)
        cut = _jieba().lcut
        return [word for piece in pieces for word in (cut(piece) if _is_han(piece) else [piece])]
    return re.findall(rf"\n|[{_HAN}]|{_LATIN_WORD}|[^\s\w]", text)


def separator(before: str | None, after: str, chinese: Chinese) -> str:
    """What to write between two neighbouring tokens: a space or nothing."""
    if before is None or before == "\n" or after == "\n":
        return ""
    if _is_han(before) and _is_han(after):
        return " " if chinese == "segmented" else ""
    if after in _SPACE_BEFORE_NONE or before in _SPACE_AFTER_NONE or _is_wide(before) or _is_wide(after):
        return ""
    return " "


def _is_han(token: str) -> bool:
    return re.match(f"[{_HAN}]", token) is not None


def _is_wide(token: str) -> bool:
    """Chinese characters and full-width punctuation, which take no space around them."""
    return _is_han(token) or "\u3000" <= token[0] <= "\u303f" or "\uff00" <= token[0] <= "\uffef"


def _jieba() -> Any:
    if importlib.util.find_spec("jieba") is None:
        raise Failure(
            "this model's words were cut by jieba, which is not installed: pip install 'throughtime[chinese]'"
        )
    module = importlib.import_module("jieba")
    module.setLogLevel("ERROR")
    return module
