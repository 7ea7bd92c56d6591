"""Figures: what is drawn is what the table holds."""

import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from panmodal.insight.leaderboard import leaderboard
from panmodal.insight.plots import INK, fold_plot, to_svg

METHODS = {
    ("a", "knn"): [6.0, 6.5, 7.0],
    ("a", "ridge"): [5.0, 5.5, 6.0],
    ("b", "knn"): [9.0, 9.5, 10.0],
    ("none", "train mean", "baseline"): [8.0, 8.5, 9.0],
    ("random", "knn", "control"): [8.1, 8.4, 9.1],
    ("idealised", "knn", "oracle"): [4.0, 4.5, 5.0],
}


def draw(scores, **options):
    return fold_plot(scores, leaderboard(scores, **options))


def dots(axes):
    """Per dot series: (heights, values)."""
    return [
        (line.get_ydata(), line.get_xdata())
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    ]


def test_one_dot_for_each_fold_of_each_embedding_and_control(make_scores):
    axes = draw(make_scores(METHODS)).axes[0]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["a", "random", "b"]  # best first; baselines and oracles are lines
    drawn = {names[round(float(y[0]))]: [] for y, _ in dots(axes)}
    for y, x in dots(axes):
        drawn[names[round(float(y[0]))]].append(sorted(x))
    assert sorted(drawn["a"]) == [[5.0, 5.5, 6.0], [6.0, 6.5, 7.0]]
    assert drawn["b"] == [[9.0, 9.5, 10.0]] and drawn["random"] == [[8.1, 8.4, 9.1]]


def test_floor_and_oracle_are_lines_in_the_legend(make_scores):
    figure = draw(make_scores(METHODS))
    vertical = sorted(line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() in ("--", ":"))
    assert vertical == [4.5, 8.5]
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["knn", "ridge", "floor (train mean)", "idealised oracle"]


def test_no_floor_no_line(make_scores):
    figure = draw(make_scores({("a", "knn"): [1.0, 2.0]}))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["knn"]


def test_undefined_folds_are_left_out(make_scores):
    axes = draw(make_scores({("a", "knn"): [1.0, np.nan, 3.0], ("b", "knn"): [np.nan] * 3})).axes[0]
    assert [list(x) for _, x in dots(axes)] == [[1.0, 3.0]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("fallback", "says"), [("filled", "train mean where not covered"), ("common", "covered by all")]
)
def test_axis_says_metric_and_rule(make_scores, fallback, says):
    label = draw(make_scores(METHODS), fallback=fallback).axes[0].get_xlabel()
    assert label.startswith("L2 per fold") and says in label


@pytest.mark.parametrize("simulated", [False, True])
def test_simulated_data_are_marked_in_the_title(make_scores, simulated):
    title = draw(make_scores(METHODS, simulated=simulated)).axes[0].get_title(loc="left")
    assert title == "screen, ctx" + " (simulated)" * simulated


@pytest.mark.parametrize("name", ["<b>&\"x'", "$\\alpha", "cost $5 and $7", "$\\nonsense$", "a_b^c", "%", "\\frac"])
def test_names_are_drawn_as_they_are(make_scores, name):
    svg = to_svg(draw(make_scores({(name, "knn"): [1.0, 2.0]}, screen=name)), "t")
    texts = [t.text for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert name in texts and f"{name}, ctx" in texts


def test_svg_takes_its_ink_from_the_page_and_has_no_fixed_size(make_scores):
    svg = to_svg(draw(make_scores(METHODS)), "t")
    root = ET.fromstring(svg)
    assert "currentColor" in svg and INK not in svg
    assert "viewBox" in root.attrib and "width" not in root.attrib and "height" not in root.attrib


def test_svg_is_the_same_for_the_same_data_and_ids_carry_the_title(make_scores):
    scores = make_scores(METHODS)
    first, second = to_svg(draw(scores), "task 1"), to_svg(draw(scores), "task 1")
    assert first == second
    other = to_svg(draw(scores), "task 2")
    ids = [{e.get("id") for e in ET.fromstring(svg).iter() if e.get("id")} for svg in (first, other)]
    assert all(i.startswith("task-1-") for i in ids[0]) and not ids[0] & ids[1]


def test_no_display_and_no_global_figure(make_scores):
    draw(make_scores(METHODS))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
