"""Fonts for pictures: matplotlib's own has no Chinese, so one that has is looked for on this machine: among the
system's fonts, and in the package that the extra `chinese` installs."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

OWN = "DejaVu Sans"
"""Comes with matplotlib."""
_LIKELY = (
    *("notosanscjk", "sourcehansans", "notosanssc", "wqy", "msyh", "pingfang", "hiraginosansgb", "simhei", "heiti"),
    *("droidsansfallback", "notoserifcjk", "sourcehanserif", "simsun", "arialunicode", "unifont"),
)
"""How the files of well-known fonts with Chinese begin, the most readable first."""


class FontMissing(ValueError):
    """No installed font has a character."""


def families(text: str) -> list[str]:
    """The font families that together have every character of `text`, as matplotlib's `family` takes them.

    Raises FontMissing if no installed font has one of them, with the name of a package that has.
    """
    strange = frozenset(c for c in text if c.isprintable() and not c.isspace() and ord(c) not in _charmap(_own_file()))
    return [OWN, *([_family(strange)] if strange else [])]


@cache
def _family(characters: frozenset[str]) -> str:
    from matplotlib import font_manager

    codes = {ord(c) for c in characters}
    for file in sorted([*font_manager.findSystemFonts(), *_packaged()], key=_likeliness):
        if codes <= _charmap(file):
            font_manager.fontManager.addfont(file)
            return font_manager.get_font(file).family_name
    some = "".join(sorted(characters)[:8])
    raise FontMissing(
        f"no installed font has all of the characters {some}: install one that has, such as the package "
        "fonts-noto-cjk, or pip install 'throughtime[chinese]'"
    )


def _packaged() -> list[str]:
    """The fonts that lie in the package zhplot: Noto Sans SC, under the SIL Open Font License."""
    found = find_spec("zhplot")  # nothing of the package is run
    folders = found.submodule_search_locations if found else None
    return [str(file) for folder in folders or () for file in Path(folder, "fonts").glob("*.ttf")]


def _likeliness(file: str) -> tuple[int, int, str]:
    name = Path(file).name.lower().replace("-", "").replace("_", "")
    rank = next((k for k, begin in enumerate(_LIKELY) if name.startswith(begin)), len(_LIKELY))
    return rank, 0 if "regular" in name else 1, file


@cache
def _charmap(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # not every file that is found can be read
        return frozenset()


@cache
def _own_file() -> str:
    from matplotlib.font_manager import findfont

    return str(findfont(OWN))


__all__ = ["FontMissing", "families"]
