import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.perturbation_ids import canonical, is_control, parts

NAMES = st.sampled_from(["A", "b2", "TP53", "(+)-JQ1", "Ca2", "007", "1-Mar", "NA", "x y", "ctrl", "DMSO"])


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("A", "A"), (" A ", "A"), ("A+B", "A+B"), ("B+A", "A+B"), ("B + A", "A+B"), ("C+A+B", "A+B+C"),
        ("A+ctrl", "A"), ("ctrl+A", "A"), ("A+CTRL+B", "A+B"), ("ctrl+ctrl", "ctrl"), ("NT+dmso", "ctrl"),
        ("(+)-JQ1", "(+)-JQ1"), ("Ca2+", "Ca2+"), ("Na++K", "Na++K"), ("+A", "+A"), ("+", "+"), ("", ""),
        ("[Na+].[Cl-]", "[Na+].[Cl-]"), ("a(b+c)d", "a(b+c)d"), ("f(x)+A", "A+f(x)"), (")A(+B", ")A(+B"),
        ("1-Mar", "1-Mar"), ("007", "007"), ("NA", "NA"), ("NA+007", "007+NA"),
    ],
)  # fmt: skip
def test_canonical(written, form):
    assert canonical(written) == form


@pytest.mark.parametrize(
    ("written", "pieces"), [("A", ("A",)), ("B+A", ("A", "B")), ("A+ctrl", ("A",)), ("Ca2+", ("Ca2+",))]
)
def test_parts(written, pieces):
    assert parts(written) == pieces


@pytest.mark.parametrize(
    "name", ["ctrl", "Control", " NT ", "non-targeting", "DMSO", "DMSO_TF", canonical("ctrl+ctrl")]
)
def test_control_names(name):
    assert is_control(name)


@pytest.mark.parametrize("name", ["A", "CTRL1", "NTRK1", "A+ctrl", "", "controlled"])
def test_other_names_are_no_controls(name):
    assert not is_control(name)


@given(st.text(alphabet="AaB+()[]{} c1-"))
def test_canonical_is_idempotent(text):
    assert canonical(canonical(text)) == canonical(text)


@given(st.lists(NAMES, min_size=1, max_size=4).flatmap(lambda n: st.tuples(st.just(n), st.permutations(n))))
def test_canonical_does_not_depend_on_order(both):
    names, shuffled = both
    # A "+" inside a name makes the whole text one name, for which order is meaningful.
    if not any("+" in name for name in names):
        assert canonical("+".join(names)) == canonical("+".join(shuffled))
