"""Results folders made once: two embeddings, then another on the same screen, and hostile cards."""

from html.parser import HTMLParser

import numpy as np
import pytest

from panmodal import Card, Embedding, run

EVIL = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}\u2028]]>"
HOSTILE = {
    "modality": f"m{EVIL}", "description": f"d{EVIL}\u202e", "source": f"s{EVIL}", "licence": f"=cmd|' /C calc'!A0{EVIL}", "citation": f"c{EVIL}",
    "url": "javascript:alert(1)", "id_namespace": f"i{EVIL}", "trained_on": (f"t{EVIL}",), "recipe": f"r{EVIL}", "notes": (f"n{EVIL}", "x" * 9000),
}  # fmt: skip


@pytest.fixture(scope="session")
def evil():
    """What the hostile embedding is called, and what it tries."""
    return f"../../=evil {EVIL}"


@pytest.fixture(scope="session")
def screen_and(toy):
    """The toy screen and its embeddings, and a maker of more embeddings of its ids."""
    screen, embeddings = toy(n=30, genes=12)

    def make(name, seed=0, **card):
        ids = list(embeddings[0].ids)
        vectors = np.random.default_rng(seed).standard_normal((len(ids), 6))
        return Embedding(tuple(ids), vectors, Card(name=name, **{"modality": "noise", **card}))

    return screen, embeddings, make


@pytest.fixture(scope="session")
def folders(tmp_path_factory, screen_and, evil):
    """Results folders by name."""
    base = tmp_path_factory.mktemp("site")
    screen, (full, part), make = screen_and
    sets = {
        "first": [full, part], "second": [full, make("noise", 1, licence="MIT", url="https://example.org/a?b=1&c=2")],
        "clash": [make("full", 2)], "hostile": [make(evil, 3, **HOSTILE)],
    }  # fmt: skip
    for name, embeddings in sets.items():
        run(screen, embeddings, probes=["knn"], out=base / name, n_jobs=1)
    return {name: base / name for name in sets}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag was closed in order."""

    VOID = {"meta", "link", "img", "input", "br", "hr"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


@pytest.fixture(scope="session")
def parse():
    """Parse a page; it must be well formed."""
    return lambda path: Page(path.read_text(encoding="utf-8"))
