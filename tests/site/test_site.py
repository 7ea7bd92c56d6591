"""The pages and files of a site: whole, linked, escaped, the same again, and what changed."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from panmodal.evaluation.imported import write_imported
from panmodal.evaluation.published import import_scores
from panmodal.site.config import SiteConfig, make_config, read_config
from panmodal.site.sources import open_source
from panmodal.site.write import build_site


@pytest.fixture(scope="module")
def site(folders, tmp_path_factory):
    """A site of two folders and a hostile one."""
    out = tmp_path_factory.mktemp("out") / "site"
    config = SiteConfig(
        title="Ours & <yours>",
        date="2026-01-31",
        base_url="https://example.org/board",
        submit="https://example.org/submit",
    )
    made = build_site([folders[n] for n in ("first", "second", "hostile")], out, config=config)
    return out, made


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_every_page_is_well_formed_and_every_link_leads_somewhere(site, parse):
    out, made = site
    pages = sorted(out.rglob("*.html"))
    assert len(pages) == 2 + len(made.tables.pages) + len(made.entries)
    for path in pages:
        page = parse(path)
        for tag, attribute in (("a", "href"), ("script", "src"), ("link", "href")):
            for found in page.all(tag):
                target = found.get(attribute, "")
                if target.startswith(("https://", "data:,")) or (tag == "script" and not target):
                    continue
                file, _, anchor = target.partition("#")
                place = (path.parent / file).resolve() if file else path
                assert place.is_file() and out.resolve() in (place, *place.parents), (path.name, target)
                assert not anchor or any(a.get("id") == anchor for _, a in parse(place).tags)
    assert sorted((out / "files.txt").read_text().split()) == sorted(digests(out))


def test_pages_load_nothing_from_elsewhere_and_allow_no_code_within(site, parse):
    out, _ = site
    for path in out.rglob("*.html"):
        page = parse(path)
        policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        assert "unsafe" not in policy and "default-src 'none'" in policy and "http" not in policy
        assert {t for t, _ in page.tags}.isdisjoint({"iframe", "img", "object", "embed", "style", "base"})
        for tag, attributes in page.tags:
            assert not any(a.startswith("on") or a == "style" for a in attributes), (path.name, tag, attributes)
        assert all(a.get("src") and not a["src"].startswith("http") for a in page.all("script"))
        for link in page.all("a"):
            if link.get("href", "").startswith("http"):
                assert "noopener" in link["rel"]
    for path in (out / "assets").iterdir():
        text = path.read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
        assert "innerHTML" not in text and "eval(" not in text and "@import" not in text


def test_a_hostile_card_is_text_wherever_it_stands(site, parse, evil):
    out, made = site
    slug = made.entries[evil, False][0]
    page = parse(out / f"embeddings/{slug}.html")
    assert "alert(1)" in page.text and "{{7*7}}" in page.text and "49" not in page.text.split("{{7*7}}")[1][:3]
    assert not [a for a in page.all("a") if "javascript" in a.get("href", "")] and "not shown as a link" in page.text
    assert "\u202e" not in page.text and "x" * 2000 not in page.text
    for path in [*out.rglob("*.js"), *out.rglob("*.json"), *out.rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        assert "<img src=x" not in text or (path.suffix == ".json" and "html" not in path.name)
        assert "\u2028" not in text
    assert "</script>" not in "".join(p.read_text() for p in out.rglob("data/**/*.js"))
    assert "{{7*7}}" in json.loads((out / "index.json").read_text())["embeddings"][-1]["name"]
    assert slug.startswith("evil-script") and all(".." not in str(p.relative_to(out)) for p in out.rglob("*"))
    with (out / "data/leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        names = {row["embedding"] for row in csv.DictReader(stream)}
    assert evil in names and not any(n.startswith(("=", "+", "-", "@")) for n in names)
    modality = pd.read_parquet(out / "data/leaderboard.parquet")["modality"]
    assert modality.str.startswith("m</script>").any()  # whole where no browser reads it


def test_links_of_cards_are_http_and_not_followed(site, parse):
    out, made = site
    page = parse(out / f"embeddings/{made.entries['noise', False][0]}.html")
    link = next(a for a in page.all("a") if a.get("href") == "https://example.org/a?b=1&c=2")
    assert {"nofollow", "noopener"} <= set(link["rel"].split()) and "MIT" in page.text


def test_the_front_page_has_the_standings_without_javascript(site, parse):
    out, made = site
    page = parse(out / "index.html")
    assert "Ours & <yours>" in page.text and "2026-01-31" in page.text and "Run on 2 tasks of toy" in page.text
    assert [a.get("scope") for a in page.all("th")].count(None) == 0
    rows = [a for a in page.all("a") if a.get("href", "").startswith("embeddings/")]
    assert len(rows) >= len(made.standings) and page.all("link")[0] == {
        "rel": "canonical",
        "href": "https://example.org/board/",
    }
    assert (out / "index.html").stat().st_size < 5_000_000 and page.all("html")[0]["lang"] == "en"


def test_a_task_page_shows_floor_ceiling_controls_and_intervals(site, parse):
    out, made = site
    page = parse(out / f"tasks/{made.tasks[made.tables.pages[0].task]}.html")
    assert "train mean" in page.text and "control" in page.text and "idealised" in page.text and " to " in page.text
    assert "responses lfc-" in page.text and "Every metric" in page.text and "first (results folder)" in page.text


def test_index_json_is_the_leaderboard(site):
    out, made = site
    index = json.loads((out / "index.json").read_text())
    assert (index["format"], index["schema"], index["date"]) == ("panmodal-site", 1, "2026-01-31")
    board = made.tables.pages[0].board
    first = index["rankings"][index["tasks"][0]["id"]][0]
    names = {e["id"]: e["name"] for e in index["embeddings"]}
    best = board[board["rank"] == 1].iloc[0]
    assert names[first[0]] == best["embedding"] and first[2] == 1 and first[3] == pytest.approx(best["mean"])
    assert [s["name"] for s in index["sources"]] == ["first", "second", "hostile"] and index["tasks"][0][
        "responses_digest"
    ].startswith("lfc-")
    for part in (*index["tasks"], *index["embeddings"]):
        assert (out / part["page"]).is_file() and (out / part["data"]).is_file()
    assert all((out / f).is_file() for f in index["files"].values())
    metrics = pd.read_parquet(out / "data/metrics.parquet")
    assert set(metrics["fallback"]) == {"filled", "covered", "common"} and "Pearson" in set(metrics["metric"])


def test_views_hold_the_same_numbers(site):
    out, made = site
    text = (out / "data/views/primary-filled.js").read_text()
    view = json.loads(text.removeprefix("panmodalSite.view(").removesuffix(");\n"))
    row = made.standings.iloc[0]
    gaps = [cell[2] for cell in view["scores"][0]]
    assert sum(gaps) / len(gaps) == pytest.approx(row["mean_gap"], abs=1e-4) and [
        c[0] for c in view["scores"][0]
    ] == list(row["tasks"])


def test_the_same_sources_give_the_same_bytes(folders, tmp_path):
    for name in ("a", "b"):
        build_site([folders["first"], folders["second"]], tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_changes_since_the_site_before(folders, tmp_path, parse):
    out = tmp_path / "site"
    build_site([folders["first"]], out, config=SiteConfig(date="2026-01-01"))
    assert not (out / "changes.json").exists()
    build_site([folders["second"], folders["first"]], out, config=SiteConfig(date="2026-02-01"), previous=out)
    entries = json.loads((out / "changes.json").read_text())["entries"]
    assert len(entries) == 1 and [e["name"] for e in entries[0]["new_embeddings"]] == ["noise"]
    assert (entries[0]["from"]["date"], entries[0]["to"]["date"], entries[0]["new_tasks"]) == (
        "2026-01-01",
        "2026-02-01",
        [],
    )
    index = json.loads((out / "index.json").read_text())
    for change in entries[0]["ranks"]:
        now = {(e, p): r for e, p, r, _ in index["rankings"][change["task"]]}
        assert now[change["embedding"], change["probe"]] == change["after"] != change["before"]
    assert "New embedding: noise" in parse(out / "index.html").text
    build_site([folders["second"], folders["first"]], out, previous=out / "index.json")
    again = json.loads((out / "changes.json").read_text())["entries"]
    assert again == entries  # nothing new: no entry, the older ones stay
    old = {p.name for p in (out / "embeddings").iterdir()}
    build_site([folders["first"]], out, previous=out)
    gone = json.loads((out / "changes.json").read_text())["entries"]
    assert [e["name"] for e in gone[0]["gone_embeddings"]] == ["noise"] and gone[1:] == entries
    assert len(old - {p.name for p in (out / "embeddings").iterdir()}) == 1  # its page is removed


@pytest.mark.parametrize(("text", "says"), [
    ("{", "not valid JSON"), ("[]", "object"), ('{"format": "other"}', "not the index.json"), ("[" * 100_000, "not valid JSON"),
    ('{"format": "panmodal-site", "schema": 99}', "schema 99"), ('{"format": "panmodal-site", "schema": 1}', "damaged"),
    ('{"format": "panmodal-site", "schema": 1, "tasks": [1], "embeddings": [], "rankings": {}}', "damaged"),
])  # fmt: skip
def test_a_damaged_previous_site_is_refused(text, says, folders, tmp_path, refuses):
    (tmp_path / "index.json").write_text(text)
    refuses([says], build_site, [folders["first"]], tmp_path / "out", previous=tmp_path)
    assert not (tmp_path / "out" / "index.html").exists()


def test_other_folders_are_never_written_to(folders, tmp_path, refuses):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    refuses(["is no site", "--out"], build_site, [folders["first"]], tmp_path / "mine")
    out = tmp_path / "site"
    build_site([folders["first"]], out)
    (tmp_path / "outside.html").write_text("x")
    (out / "files.txt").write_text("../outside.html\n/etc/passwd\nindex.html\n")
    build_site([folders["first"]], out)
    assert (tmp_path / "outside.html").exists()


def test_a_site_needs_an_embedding(folders, refuses):
    source = open_source(folders["first"])
    none = source.scores[source.scores["role"] != "embedding"]
    from dataclasses import replace

    refuses(
        ["no", "embedding"], build_site, [replace(source, scores=none.reset_index(drop=True))], Path("never-written")
    )


def test_a_config_names_sources_with_dates(folders, tmp_path, refuses):
    shutil.copytree(folders["first"], tmp_path / "r")
    (tmp_path / "site.yaml").write_text(
        "title: T\ndate: 2026-01-31\nsources:\n  - {path: r, name: Lab <b>, date: 2025-12-24}\n"
    )
    made = build_site([], tmp_path / "site", config=read_config(tmp_path / "site.yaml"))
    assert made.tables.merged.sources[0].name == "Lab <b>"
    text = (tmp_path / "site" / "index.html").read_text()
    assert "2025-12-24" in text and "Lab <b>" not in text
    for fields, says in (({"colour": 1}, "colour"), ({"date": "yesterday"}, "no date"), ({"submit": "javascript:x"}, "no address"),
                         ({"metric": "Score"}, "no metric"), ({"title": ""}, "title"), ({"sources": [{"path": "r", "date": "1"}]}, "no date")):  # fmt: skip
        refuses([says, "here"], make_config, fields, "here")


def test_published_scores_are_marked_and_stand_apart(folders, tmp_path, parse):
    reference = Path(__file__).parents[3] / "shared" / "reference" / "published_scores.csv.gz"
    if not reference.is_file():
        pytest.skip("the published scores (../shared/reference) are not here")
    table = pd.read_csv(reference)
    table[(table["dataset"] == table["dataset"].iloc[0]) & (table["cell_line"] == table["cell_line"].iloc[0])].to_csv(
        tmp_path / "p.csv", index=False
    )
    write_imported(import_scores(tmp_path / "p.csv"), tmp_path / "published")
    made = build_site([folders["first"], tmp_path / "published"], tmp_path / "site")
    kinds = {p.kind for p in made.tables.pages}
    assert kinds == {"measured", "published"} and made.standings.groupby("group")["kind"].nunique().eq(1).all()
    page = parse(tmp_path / "site" / "index.html")
    assert "published, not rerun" in page.text
    task = next(p for p in made.tables.pages if p.kind == "published")
    text = parse(tmp_path / "site" / f"tasks/{made.tasks[task.task]}.html").text
    assert "not computed again here" in text and "unknown" in text
    index = json.loads((tmp_path / "site" / "index.json").read_text())
    assert {e["published"] for e in index["embeddings"]} == {True, False}
    assert all(t["responses_digest"] is None for t in index["tasks"] if t["kind"] == "published")
