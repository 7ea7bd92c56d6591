import pytest

from panmodal.studies import STUDIES, expand, key, seen


@pytest.mark.parametrize(
    ("trained_on", "datasets", "expected"),
    [
        ((), ("replogle2022",), "unknown"),
        ((), (), "unknown"),
        (("norman2019",), (), "unknown"),
        (("none",), (), "no"),
        (("none",), ("replogle2022",), "no"),
        (("norman2019",), ("replogle2022",), "no"),
        (("replogle2022",), ("replogle2022",), "yes"),
        (("Replogle 2022",), ("replogle_2022",), "yes"),
        (("essential",), ("nadig2024",), "yes"),
        (("nadig2025",), ("essential",), "yes"),
        (("my-own-screen",), ("My own screen",), "yes"),
        (("none", "depmap"), ("DepMap",), "yes"),
    ],
)
def test_whether_an_embedding_has_seen_a_screen(trained_on, datasets, expected):
    assert seen(trained_on, datasets) == expected


def test_names_of_studies_are_unambiguous():
    names = [key(n) for study in STUDIES.values() for n in (study.name, *study.aliases)]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    assert all(part in STUDIES for study in STUDIES.values() for part in study.contains)


def test_a_collection_stands_for_its_studies():
    assert expand(["essential"]) == {"replogle2022", "nadig2024"}
