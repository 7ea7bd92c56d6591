"""The site in a real browser, from files: no errors, the same standings as without scripts, it filters, sorts, fits a phone."""

import shutil

import pytest

from panmodal.site.config import SiteConfig
from panmodal.site.write import build_site


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
def site(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("browser") / "site"
    return out, build_site([folders[n] for n in ("first", "second", "hostile")], out, config=SiteConfig(title="Ours"))


@pytest.fixture
def visit(browser):
    """Open a page; whatever the browser complains of fails the test."""
    contexts, problems = [], []

    def open_page(path, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url))
        page.on("dialog", lambda d: (problems.append("dialog"), d.dismiss()))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def rows(page):
    return page.eval_on_selector_all(
        "#standings tbody tr:not(.group)",
        "all => all.map(r => [...r.cells].map(c => c.textContent.trim().replace(/\\s+/g, ' ')))",
    )


def test_the_script_shows_what_the_static_table_shows(visit, site):
    out, made = site
    static = rows(visit(out / "index.html", java_script_enabled=False))
    page = visit(out / "index.html")
    page.wait_for_selector("#filterbox:not([hidden])")
    page.wait_for_selector("#status:has-text('methods')")
    assert rows(page) == static and len(static) == len(made.standings)


def test_filters_metrics_and_search(visit, site):
    out, made = site
    page = visit(out / "index.html")
    page.wait_for_selector("#filters select[name=metric]")
    page.fill("#filters input[name=words]", "noise")
    assert [r[1] for r in rows(page)] == ["noise"] and "1 of" in page.text_content("#status")
    page.fill("#filters input[name=words]", "")
    page.select_option("#filters select[name=context]", "A")
    board = made.tables.pages[0].board
    names = board[board["role"] == "embedding"].sort_values("rank")["embedding"].tolist()
    assert [r[1].split(" ")[0] for r in rows(page)][:2] == [n.split(" ")[0] for n in names][
        :2
    ] and "Run on 1 task" in page.text_content("#standings")
    page.select_option("#filters select[name=metric]", "Pearson")
    page.wait_for_selector("#status:has-text('by Pearson')")
    page.select_option("#filters select[name=fallback]", "covered")
    page.wait_for_selector("#status:has-text('not ranked')")
    assert {r[0] for r in rows(page)} == {""}
    page.click("#filters button[type=reset]")
    page.wait_for_selector("#status:has-text('by L2')")
    assert len(rows(page)) == len(made.standings)


def test_tables_sort_by_keyboard(visit, site):
    out, made = site
    page = visit(out / "index.html")
    page.wait_for_selector("#standings thead button")
    page.focus("#standings thead th[data-key=name] button")
    page.keyboard.press("Enter")
    assert page.get_attribute("#standings th[data-key=name]", "aria-sort") == "ascending"
    names = [r[1] for r in rows(page)]
    page.keyboard.press("Enter")
    assert (
        page.get_attribute("#standings th[data-key=name]", "aria-sort") == "descending"
        and [r[1] for r in rows(page)] == names[::-1]
    )
    task = visit(out / f"tasks/{made.tasks[made.tables.pages[0].task]}.html")
    task.click("table.sortable thead th:nth-child(2) button")
    assert task.get_attribute("table.sortable thead th:nth-child(2)", "aria-sort") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_of_page_fits_a_phone_in_both_themes(scheme, visit, site, evil):
    out, made = site
    paths = [
        "index.html",
        "about.html",
        f"tasks/{made.tasks[made.tables.pages[0].task]}.html",
        f"embeddings/{made.entries[evil, False][0]}.html",
    ]
    for path in paths:
        page = visit(out / path, width=360, color_scheme=scheme)
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
        assert dark == (scheme == "dark")
        page.click("button.theme")
        assert page.evaluate("document.documentElement.dataset.theme") == ("light" if dark else "dark")
