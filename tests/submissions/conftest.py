"""A small real run, its bundle, and a way to change a bundle as a forger would."""

import hashlib
import json
import zipfile

import pytest

from panmodal import Card, Embedding, run
from panmodal.submissions import bundle, validate
from panmodal.submissions.archive import write_archive


class Files(dict):
    """Members of a bundle, to be changed: JSON and tables as values, the manifest made to fit again."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            super().__init__({n: archive.read(n) for n in archive.namelist()})

    def json(self, name):
        return json.loads(self[name])

    def put(self, name, value):
        self[name] = (json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    def edit(self, name, change):
        value = self.json(name)
        self.put(name, change(value) or value)

    @property
    def only_run(self):
        (name,) = [n for n in self if n.startswith("runs/")]
        return name

    def edit_run(self, change, rename=True):
        from panmodal._digest import digest_json

        value = self.json(self.only_run)
        del self[self.only_run]
        change(value)
        self.put(f"runs/{digest_json(value) if rename else 32 * 'a'}.json", value)

    def fit(self):
        """Name all members in the manifest as they are."""
        manifest = self.json("manifest.json")
        rest = {n: c for n, c in sorted(self.items()) if n != "manifest.json"}
        manifest["files"] = [
            {"name": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in rest.items()
        ]
        self.put("manifest.json", manifest)

    def write(self, path, fit=True):
        if fit:
            self.fit()
        write_archive(path, sorted(self.items()))
        return path


@pytest.fixture(scope="session")
def results(toy, tmp_path_factory):
    """Two embeddings, one without every fifth id, two folds, one context."""
    screen, (full, part) = toy(n=40, genes=12, contexts=("A",))
    said = {"modality": "toy", "licence": "MIT", "trained_on": ("none",), "url": "https://example.org/toy"}
    embeddings = [Embedding(e.ids, e.vectors, Card(name=e.name, **said)) for e in (full, part)]
    folder = tmp_path_factory.mktemp("submissions") / "results"
    metrics = ["L2", "MSE", "MAE", "Pearson", "Pearson_centred", "cosine", "PDS_L1"]
    run(screen, embeddings, folder, folds=2, probes=["ridge", "knn"], metrics=metrics, permuted=True, n_jobs=1)
    return folder


@pytest.fixture(scope="session")
def bundled(results, tmp_path_factory):
    return bundle(results, tmp_path_factory.mktemp("bundle") / "toy.zip", title="toys", contact="a@example.org").path


@pytest.fixture(scope="session")
def predicted(results, tmp_path_factory):
    return bundle(results, tmp_path_factory.mktemp("bundle") / "toy.zip", with_predictions=True).path


@pytest.fixture
def files(bundled):
    return Files(bundled)


@pytest.fixture
def opened():
    return Files


@pytest.fixture
def with_predictions(predicted):
    return Files(predicted)


@pytest.fixture
def codes(tmp_path):
    """Write changed files and return the codes of the errors and warnings that are found."""

    def check(files, fit=True, **options):
        report = validate(files.write(tmp_path / "changed.zip", fit), **options)
        return {f.code for f in report.findings if f.severity != "note"}

    return check
