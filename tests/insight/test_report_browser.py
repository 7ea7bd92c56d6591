"""The report in a real browser: no errors, it sorts, filters, finds, follows the theme, fits a phone, prints."""

import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from panmodal.insight import report as reporting
from panmodal.insight import report_write
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Predicted, Truth
from panmodal.insight.report_figures import board_displays

N, GENES, FOLDS = 60, 12, 2
IDS = [f"GENE{k}" for k in range(N)]


def truth():
    return Truth(
        tuple(IDS),
        np.random.default_rng(1).normal(size=(N, GENES)).astype(np.float32),
        tuple(f"G{g}" for g in range(GENES)),
    )


def evidence():
    rng = np.random.default_rng(0)
    scores, rows = [], []
    names = [f"embedding-with-a-rather-long-name-{k}" for k in range(5)]
    for context in ("K-562", "hTERT-RPE1"):
        for fold in range(FOLDS):
            own = IDS[fold::FOLDS]
            base = rng.gamma(9.0, 1.0, len(own)) + 5
            methods = [
                (n, p, "embedding", base - 1 + 0.3 * k + rng.normal(0, 0.5, len(own)))
                for k, n in enumerate(names)
                for p in ("knn", "lasso", "ridge")
            ]
            methods += [
                ("none", "train mean", "baseline", base),
                ("random", "knn", "control", base + 0.2),
                ("idealised", "knn", "oracle", base - 4),
            ]
            for name, probe, role, values in methods:
                trial = f"{context}|{fold}|{name}|{probe}"
                rows.append(
                    pd.DataFrame(
                        {"trial": trial, "pert_id": own, "covered": [k % 5 > 0 for k in range(len(own))], "L2": values}
                    )
                )
                for fallback in ("filled", "covered", "common"):
                    scores.append({
                        "screen": "screen", "context": context, "response": "lfc", "split": "unseen", "fold": fold, "embedding": name,
                        "probe": probe, "seed": 42, "role": role, "modality": "toy", "simulated": False, "seen": "no",
                        "fallback": fallback, "metric": "L2", "value": values.mean(), "n_test": len(own), "n_covered": len(own),
                        "hyperparameters": "{}", "trial": trial, "n_scored": len(own), "n_undefined": 0,
                    })  # fmt: skip

    def predictions(trial):
        own, true = IDS[int(trial.split("|")[1]) :: FOLDS], truth()
        values = 0.5 * true.values[[true.row[i] for i in own]]
        return Predicted(tuple(own), np.ones(len(own), bool), values, np.zeros(GENES, np.float32))

    return Evidence(
        pd.DataFrame(scores),
        pd.concat(rows, ignore_index=True),
        read_truth=lambda _: truth(),
        read_predictions=predictions,
    )


def draw(table):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    figure.subplots().plot(table["a"])
    return figure


@pytest.fixture(scope="module")
def browser():
    """A browser that is there already; nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = [w for name in ("chromium", "chromium-browser", "google-chrome") if (w := shutil.which(name))]
    if not found:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with api.sync_playwright() as play:
        shown = play.chromium.launch(
            executable_path=found[0], args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield shown
        shown.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The report as a page and as a folder."""
    folder = tmp_path_factory.mktemp("report")
    known = evidence()
    table = pd.DataFrame({"name": [f"n{k}" for k in range(30)], "a": np.arange(30.0)[::-1]})
    found = [Display(f"block-{k}", f"Block {k}", table, "About.", ("Said.",), draw) for k in range(5)]
    with pytest.MonkeyPatch.context() as patch:

        def collect(evidence, board, names=None):
            return {"leaderboard": board_displays(evidence, board), "ranks": found}

        patch.setattr(reporting, "collect", collect)
        patch.setattr(report_write, "collect", collect)
        report = reporting.make_report(known, sections=["ranks"])
        report_write.write_page(report, folder / "report.html")
        report_write.write_folder(report, known, folder / "out", formats=("svg",))
    return {"page": folder / "report.html", "folder": folder / "out" / "index.html"}


@dataclass
class Opened:
    page: object
    messages: list
    requests: list


@pytest.fixture
def visit(browser, files):
    """Open a form of the report and wait until it is ready; no message of the console, no request elsewhere is allowed."""
    opened = []

    def open_it(form="page", *, width=1280, height=900, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        page = context.new_page()
        one = Opened(page, [], [])
        page.on("console", lambda message: one.messages.append((message.type, message.text)))
        page.on("pageerror", lambda error: one.messages.append(("pageerror", str(error))))
        page.on("request", lambda request: one.requests.append(request.url))
        page.goto(files[form].as_uri())
        page.evaluate("async () => { await panmodal.charts.ready; await panmodal.explorer; }")
        opened.append((context, one))
        return page

    yield open_it
    for context, one in opened:
        context.close()
        assert not one.messages
        assert all(url.startswith(("file:", "data:", "blob:")) for url in one.requests), one.requests


def column(page, table, k):
    return page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{k}].textContent.trim())"
    )


@pytest.mark.parametrize("form", ["page", "folder"])
def test_figures_are_drawn(visit, form):
    page = visit(form)
    page.evaluate("panmodal.charts.drawAll()")
    page.wait_for_timeout(300)
    charts = page.eval_on_selector_all(
        ".chart[data-spec]",
        "all => all.map(c => [c.dataset.name, c.querySelectorAll('.trace, .hm, .points, .bars').length])",
    )
    assert len(charts) == 5 and all(n for _, n in charts), charts
    assert page.eval_on_selector_all(".explorer .chart", "all => all.map(c => !!c.data && c.data[0].x.length)") == [
        48,
        12,
    ]


def test_leaderboard_sorts_and_filters(visit):
    page = visit()
    table = "#task-1 table"
    assert len(column(page, table, 1)) == 15  # of 18
    page.click("#task-1 .tools button:has-text('Show all 18')")
    assert len(column(page, table, 1)) == 18
    head = page.locator(f"{table} th", has_text="L2").locator("button")
    head.click()
    assert page.locator(f"{table} th", has_text="L2").get_attribute("aria-sort") == "ascending"
    up = [float(v) for v in column(page, table, 4)]
    head.click()
    assert [float(v) for v in column(page, table, 4)] == up[::-1] and up == sorted(up)
    page.fill("#task-1 input[type=search]", "name-3 lasso")
    assert column(page, table, 1) == ["embedding-with-a-rather-long-name-3"]
    assert page.locator("#task-1 [role=status]").text_content() == "1 of 18"


def test_explorer_searches_sorts_pages_and_highlights(visit):
    page = visit()
    box = ".explorer[data-kind=perturbations]"
    assert len(column(page, box, 0)) == 25
    page.click(f"{box} button:has-text('Next')")
    page.click(f"{box} button:has-text('Next')")
    assert len(column(page, box, 0)) == 10 and page.is_disabled(f"{box} button:has-text('Next')")
    gain = page.locator(f"{box} th", has_text="its gain").locator("button")
    gain.click()
    gain.click()
    values = [float(v) for v in column(page, box, 4)]
    assert values == sorted(values, reverse=True)
    page.fill(f"{box} input[type=search]", "gene7")
    assert column(page, box, 0) == ["GENE7"]
    page.hover(f"{box} tbody tr")
    assert page.evaluate(f"document.querySelector('{box} .chart').data.at(-1).text") == ["GENE7"]
    assert "hit" in page.get_attribute(f"{box} tbody tr", "class")
    page.select_option(f"{box} select >> nth=0", "1")  # the other task
    page.select_option(f"{box} select >> nth=1", "2")
    assert page.locator(f"{box} th").count() == 5 + 5


def test_rows_of_the_explorer_work_with_the_keyboard(visit):
    page = visit()
    box = ".explorer[data-kind=readouts]"
    page.focus(f"{box} tbody tr")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.rowIndex") == 2
    name = page.evaluate("document.activeElement.cells[0].textContent")
    assert page.evaluate(f"document.querySelector('{box} .chart').data.at(-1).text") == [name]


def luminance(page, selector, what):
    text = page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}")
    r, g, b = (float(v) / 255 for v in text[text.index("(") + 1 : -1].split(",")[:3])
    return sum(
        w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
        for w, v in zip((0.2126, 0.7152, 0.0722), (r, g, b), strict=True)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_both_themes(visit, scheme):
    page = visit(scheme=scheme)
    page.evaluate("panmodal.charts.drawAll()")
    for selector, what in (("p.soft", "color"), ("main p a", "color"), ("h1", "color"), ("thead th", "color"), (".chart .ytick text", "fill"),
                           ("svg.plot", "color"), (".side a", "color")):  # fmt: skip
        ground = luminance(page, "body", "backgroundColor")
        ink = luminance(page, selector, what)
        low, high = sorted((ground, ink))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, scheme)
    assert (luminance(page, "body", "backgroundColor") < 0.1) == (scheme == "dark")


def test_the_toggle_switches_page_and_figures_and_is_remembered(visit):
    page = visit()
    page.evaluate("panmodal.charts.drawAll()")
    before = page.eval_on_selector(".chart .ytick text", "e => getComputedStyle(e).fill")
    page.click("button.theme")
    assert (
        page.evaluate("document.documentElement.dataset.theme") == "dark"
        and luminance(page, "body", "backgroundColor") < 0.1
    )
    assert page.eval_on_selector(".chart .ytick text", "e => getComputedStyle(e).fill") != before
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_phone_scrolls_down_only(visit):
    page = visit(width=390, height=844)
    page.evaluate("panmodal.charts.drawAll()")
    page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_every_table_is_saved_as_it_is(visit, tmp_path):
    page = visit()
    for name in ("perturbations-1", "over-tasks"):
        with page.expect_download() as waiting:
            page.click(f"#get-{name} a")
        assert waiting.value.suggested_filename == f"{name}.csv"
        waiting.value.save_as(tmp_path / name)
        read = pd.read_csv(tmp_path / name)
        assert len(read) == (N if name.startswith("pert") else 15)
    with page.expect_download() as waiting:
        page.click("#ranks-block-1 a.get")
    assert waiting.value.suggested_filename == "ranks-block-1.csv"
    with page.expect_download() as waiting:
        page.click("#ranks-block-1 button:has-text('SVG')")
    assert waiting.value.suggested_filename == "ranks-block-1.svg"


def test_it_prints_light_and_whole(visit):
    page = visit(scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.eval_on_selector_all("details.block", "all => all.length && all.every(d => d.open)")
    assert page.eval_on_selector_all(".chart[data-spec]", "all => all.every(c => c.querySelector('svg'))")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme ?? 'none'") == "none"
    assert page.pdf(format="A4").startswith(b"%PDF")
