"""Names of compounds: what in their spelling does not matter, and what does (stereo, locants, signs)."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

SALTS = frozenset({
    "hydrochloride", "dihydrochloride", "trihydrochloride", "monohydrochloride", "hcl", "2hcl", "hydrobromide", "hbr", "hydroiodide",
    "mesylate", "dimesylate", "mesilate", "methanesulfonate", "methanesulphonate", "tosylate", "ditosylate", "tosilate", "besylate",
    "besilate", "esylate", "edisylate", "napsylate", "camsylate", "isethionate", "maleate", "dimaleate", "fumarate", "hemifumarate",
    "tartrate", "bitartrate", "hemitartrate", "citrate", "malate", "oxalate", "pamoate", "xinafoate", "trifluoroacetate", "tfa",
    "tromethamine", "trometamol", "meglumine", "erbumine", "olamine", "sodium", "disodium", "potassium", "dipotassium", "calcium",
    "magnesium", "hydrate", "monohydrate", "dihydrate", "trihydrate", "hemihydrate", "sesquihydrate", "anhydrous", "nitrate",
    "chloride", "bromide", "iodide", "hydrogen",
})  # fmt: skip
"""Words at the end of a name that say in which salt or hydrate a compound comes."""

UNSURE = frozenset({
    "acetate", "diacetate", "phosphate", "diphosphate", "sulfate", "sulphate", "succinate", "lactate", "gluconate", "benzoate",
    "propionate", "valerate", "pivalate", "palmitate", "decanoate", "salt", "free", "base", "acid",
})  # fmt: skip
"""Words at the end of a name that are a salt in some names and a part of the molecule (an ester, an acid) in others."""

# What is left of "sodium chloride" or "chloral hydrate" is another substance.
_NOT_ALONE = frozenset({
    "sodium", "potassium", "calcium", "magnesium", "lithium", "zinc", "ammonium", "silver", "iron", "ferric", "ferrous", "copper",
    "cupric", "barium", "strontium", "rubidium", "aluminum", "aluminium", "bismuth", "cobalt", "manganese", "nickel", "cadmium",
    "mercuric", "gold", "stannous", "chloral", "hydrogen", "methylene", "ethyl", "methyl", "dimethyl", "monomethyl", "diethyl",
    "ethylene", "cesium", "hydroxyethyl", "triethyl", "amyl", "butyl", "isobutyl", "isopropyl", "vinyl", "benzyl", "acetyl",
    "isosorbide", "thallous", "selenious", "gallium", "indium", "lanthanum", "uranyl", "phenyl",
})  # fmt: skip

_STEREO = frozenset(
    {"trans", "cis", "rac", "racemic", "racemate", "endo", "exo", "syn", "anti", "meso", "dextro", "levo"}
)
_GREEK = str.maketrans(
    {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ω": "omega", "µ": "mu", "μ": "mu"}
)
_SIGNS = (("(+/-)", " plusminus "), ("(+-)", " plusminus "), ("(±)", " plusminus "), ("±", " plusminus "), ("(+)", " plus "),
          ("(-)", " minus "))  # fmt: skip
_QUOTES = str.maketrans({"’": "'", "′": "'", "`": "'", "´": "'", "″": "''", "”": "''"})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_BRACKET = re.compile(r"^(.{3,}?)\s*[(\[]([^()\[\]]{3,})[)\]]$")


@lru_cache(maxsize=200_000)
def plain_name(name: str) -> str:
    """Return a name in the form in which names are compared.

    Letter case, spaces, hyphens, commas, brackets and dots do not matter, except between two digits (``1,2`` is not ``12``). Signs of
    rotation ``(+)``, ``(-)``, ``(±)``, primes and Greek letters do, and so do stereo prefixes, which are letters.

    >>> plain_name("GSK-J4"), plain_name("gsk j4"), plain_name("(S)-Crizotinib"), plain_name("(+)-JQ1")
    ('gskj4', 'gskj4', 'scrizotinib', 'plusjq1')
    """
    text = unicodedata.normalize("NFKC", name.translate(_QUOTES)).translate(_DASHES).casefold().translate(_GREEK)
    for sign, word in _SIGNS:
        text = text.replace(sign, word)
    text = text.replace("+", "plus")
    text = re.sub(r"(?<=\d)[^\w']+(?=\d)", "~", text)
    return re.sub(r"[^\w'~]+|_+", "", text)


def without_salt(name: str, words_for: frozenset[str] = SALTS) -> tuple[str, tuple[str, ...]]:
    """Return a name without the words at its end that name a salt or hydrate (``words_for``), and these words.

    ``AMD-070 (hydrochloride)`` is ``AMD-070``. Nothing is taken from names of which too little would be left (``sodium chloride``),
    nor words that may be a part of the molecule (``acetate``, ``phosphate``, ``sulfate`` ...: :data:`UNSURE`).

    >>> without_salt("Lapatinib ditosylate"), without_salt("abiraterone acetate"), without_salt("Sodium chloride")
    (('Lapatinib', ('ditosylate',)), ('abiraterone acetate', ()), ('Sodium chloride', ()))
    """
    words = name.split()
    gone: list[str] = []
    while len(words) > 1 and words[-1].strip("()[],.").casefold() in words_for:
        gone.insert(0, words.pop().strip("()[],."))
    rest = " ".join(words).rstrip(" ,-;")
    if not gone or len(plain_name(rest)) < 3 or rest.casefold().split()[-1] in _NOT_ALONE:
        return name, ()
    return rest, tuple(gone)


def unsure_salt(name: str) -> str:
    """Return the last word if it may be a salt or a part of the molecule, else an empty text."""
    words = name.split()
    last = words[-1].strip("()[],.").casefold() if len(words) > 1 else ""
    return last if last in UNSURE else ""


def in_brackets(name: str) -> tuple[str, ...]:
    """Return the two names that ``ABT-199 (GDC-0199)`` gives, or none.

    The bracket must hold a code of letters and digits, or a word; stereo (``(R)``, ``(E)``, ``(rac)``) and salts are no names.

    >>> in_brackets("ABT-199 (GDC-0199)"), in_brackets("AMD-070 (hydrochloride)"), in_brackets("MDL-28170 (trans)")
    (('ABT-199', 'GDC-0199'), (), ())
    """
    match = _BRACKET.match(name.strip())
    if match is None:
        return ()
    inner = match[2].strip()
    first = inner.casefold().split()[0] if inner.split() else ""
    spelt = plain_name(inner)
    stereo = re.fullmatch(r"(?:\d*[rsezdl+±/,\-' ])+", inner.casefold())
    if stereo or len(spelt) < 4 or first.strip("-+,") in SALTS | UNSURE | _STEREO:
        return ()
    return match[1].strip(), inner
