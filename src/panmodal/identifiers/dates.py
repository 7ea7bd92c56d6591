"""Gene symbols that a spreadsheet has turned into dates: MARCH1 became ``1-Mar``, SEPT2 ``2-Sep`` or ``2002-09-01``.

Ziemann, Eren, El-Osta, Genome Biology 17, 177 (2016) describes the accident.
"""

from __future__ import annotations

import re

SPELLINGS = {
    1: ("JAN",), 2: ("FEB",), 3: ("MARCH", "MARC", "MAR"), 4: ("APR",), 5: ("MAY",), 6: ("JUN",), 7: ("JUL",), 8: ("AUG",),
    9: ("SEPT", "SEP"), 10: ("OCT",), 11: ("NOV",), 12: ("DEC",),
}  # fmt: skip
"""How the text that became a date in this month may have begun."""

_ENGLISH = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTH = {
    **{name: k for k, name in enumerate(_ENGLISH, 1)},
    **{name[:3]: k for k, name in enumerate(_ENGLISH, 1)},
    "sept": 9, "mrz": 3, "mär": 3, "märz": 3, "mai": 5, "okt": 10, "dez": 12,
}  # fmt: skip

_NAME = "(?P<m>" + "|".join(sorted(_MONTH, key=len, reverse=True)) + ")"
_GAP = r"[-./ ]\s?"
_TIME = r"(?:[T ]00:00(?::00(?:\.0+)?)?)?"
_DAY_MONTH = re.compile(rf"(?P<d>\d{{1,2}})(?:{_GAP}){_NAME}\.?(?:{_GAP}(?P<y>\d{{2}}|\d{{4}}))?", re.IGNORECASE)
_MONTH_NUMBER = re.compile(rf"{_NAME}\.?{_GAP}(?P<d>\d{{1,2}})(?:,?{_GAP}(?P<y>\d{{4}}))?", re.IGNORECASE)
_ISO = re.compile(rf"(?P<y>\d{{4}})([-/.])(?P<m>\d{{1,2}})\2(?P<d>\d{{1,2}}){_TIME}")
_NUMBERS = re.compile(rf"(?P<a>\d{{1,2}})([-/.])(?P<b>\d{{1,2}})\2(?P<y>\d{{4}}|\d{{2}}){_TIME}")


def _of_date(month: int, day: int, year: str | None) -> list[str]:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return []
    numbers = [day]
    # "Mar-05" is read as the first of March 2005: then the number of the symbol is in the year.
    if year is not None and day == 1 and 2 <= int(year) % 100 <= 31 and (len(year) == 2 or year.startswith("20")):
        numbers.append(int(year) % 100)
    return [f"{word}{number}" for number in numbers for word in SPELLINGS[month]]


def symbols_behind(text: str) -> tuple[str, ...]:
    """Return the spellings (upper case) that a spreadsheet may have turned into the date ``text``; empty if it is no date.

    Understood: ``1-Mar``, ``Mar-01``, ``1. Mrz``, ``1-Mar-19``, ``March 1, 2019``, ``2019-03-01``, ``2019-03-01 00:00:00``,
    ``01/03/2019`` (as day/month and as month/day).

    >>> symbols_behind("2-Sep")
    ('SEPT2', 'SEP2')
    >>> symbols_behind("TP53")
    ()
    """
    text = text.strip()
    if not text or not (text[0].isdigit() or text[-1].isdigit()):
        return ()
    found: list[str] = []
    for pattern in (_DAY_MONTH, _MONTH_NUMBER):
        if match := pattern.fullmatch(text):
            found += _of_date(_MONTH[match["m"].lower()], int(match["d"]), match["y"])
    if match := _ISO.fullmatch(text):
        found += _of_date(int(match["m"]), int(match["d"]), match["y"])
    elif match := _NUMBERS.fullmatch(text):
        found += _of_date(int(match["b"]), int(match["a"]), match["y"])
        found += _of_date(int(match["a"]), int(match["b"]), match["y"])
    return tuple(dict.fromkeys(found))
