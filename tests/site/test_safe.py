"""What strangers write cannot leave the place where it is shown."""

import io
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.site import safe

TEXT = st.text(max_size=60)


@given(st.lists(TEXT, min_size=1, max_size=8))
def test_names_of_pages_are_plain_stable_and_different(names):
    made = safe.slugs((n,) for n in names)
    assert len(set(made.values())) == len(set(names))
    for (name,), slug in made.items():
        assert slug == safe.slug(name) and len(slug) <= safe.STEM + 11
        assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and not slug.startswith("-")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "CON", "", "a/b", "a\\b", "é", "\u202ea", "x" * 999, "%2e%2e"]
)
def test_no_name_leaves_its_folder(name):
    slug = safe.slug(name)
    assert "/" not in slug and "." not in slug and "\\" not in slug and "-" in slug and slug != name


def test_two_names_that_would_be_one_page_are_refused(monkeypatch, refuses):
    monkeypatch.setattr(safe, "_digest", lambda parts: "0" * 64)
    refuses(["a!", "a?", "one page"], safe.slugs, [("a!",), ("a?",)], error=InputError)


@given(
    st.recursive(
        TEXT | st.integers() | st.none() | st.booleans(), lambda s: st.lists(s) | st.dictionaries(TEXT, s), max_leaves=8
    )
)
def test_json_in_a_script_is_ascii_without_tags_and_means_the_same(value):
    text = safe.for_script(value)
    assert not set("<>&\u2028\u2029") & set(text) and text.isascii() and json.loads(text) == value


@given(st.dictionaries(TEXT, TEXT | st.lists(TEXT) | st.dictionaries(TEXT, st.lists(st.integers()))))
def test_json_for_a_file_means_the_same(value):
    assert json.loads(safe.for_file(value)) == value


@pytest.mark.parametrize("text", [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "//example.org", "http://", "https://u:p@example.org", "ftp://example.org",
    "https://example.org/\"onmouseover=x", "https://example.org/\u202e", "https://e x.org", "https://[::1", "https://e.org:99999", "vbscript:x",
    "java\nscript:x", "\x01https://e.org", "https://e.org/" + "a" * 3000, "", None,
])  # fmt: skip
def test_other_addresses_than_http_are_no_links(text):
    assert safe.link(text) == ""


@pytest.mark.parametrize(
    "text", ["https://doi.org/10.1101/2025.06.26.661186", "http://e.org:8080/a?b=1&c=2#d", "HTTPS://E.org"]
)
def test_http_addresses_are_links(text):
    assert safe.link(text) == text


@given(TEXT)
def test_csv_cells_are_no_formulas_and_give_back_what_was_written(text):
    cell = safe.cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (cell[1:] if cell.startswith("'") else cell) == text


def test_numbers_stay_numbers_in_csv():
    table = pd.DataFrame({"name": ["-a", "b"], "value": [-1.5, float("nan")], "=x": [True, False]})
    text = safe.to_csv(table)
    assert text == "name,value,=x\n'-a,-1.5,True\nb,,False\n"
    assert pd.read_csv(io.StringIO(text))["value"].iloc[0] == -1.5


def test_text_that_turns_or_hides_is_shown_as_such():
    assert safe.name("gpj\u202eexe.a") == "gpj\ufffdexe.a" and safe.name("a\x00b\u200bc") == "a\ufffdb\ufffdc"
    assert (
        safe.name("a\nb\t c") == "a b c"
        and safe.name("") == "(no name)"
        and safe.shown(None) == ""
        and safe.shown(float("nan")) == ""
    )
    cut = safe.shown("x" * 5000)
    assert len(cut) == safe.TEXT and cut.endswith("…")
