"""A local server that misbehaves on demand, and small files in the layout of the published ones."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal.datasets.download import download

HUB = "/datasets/genbio-ai/foundation-models-perturbation/resolve/main/"


class Site:
    """What the server holds (path -> bytes), how it answers next, and what it was asked."""

    def __init__(self):
        self.files, self.etags, self.next, self.asked = {}, {}, [], []
        self.ranges = self.validators = True
        self.extra = {}

    def put(self, path, content):
        self.files[path] = content
        self.etags[path] = f'"{hashlib.md5(content).hexdigest()}"'
        return hashlib.sha256(content).hexdigest()

    def then(self, *answers):
        """Answer the next requests so: ('cut', bytes sent), ('status', code, headers), ('length', said), ('slow',)."""
        self.next += answers

    @property
    def sent_ranges(self):
        return [headers.get("Range") for _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        path = unquote(self.path)
        site.asked.append((path, dict(self.headers)))
        how = site.next.pop(0) if site.next else ("well",)
        if how[0] == "status":
            self.answer(how[1], {"Content-Length": "0", **(how[2] if len(how) > 2 else {})})
            return
        if path not in site.files:
            self.answer(404, {"Content-Length": "0"})
            return
        content, etag = site.files[path], site.etags[path]
        headers = {"Accept-Ranges": "bytes", **site.extra}
        if site.validators:
            headers["ETag"] = etag
        start, status = 0, 200
        wanted = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, etag) or how[0] == "careless"
        if wanted and site.ranges and fresh:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            status = 206
            if how[0] == "shifted":
                start -= 1
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        headers["Content-Length"] = str(how[1] if how[0] == "length" else len(body))
        self.answer(status, headers)
        self.wfile.write(body[: how[1]] if how[0] == "cut" else body)
        if how[0] in ("cut", "length"):
            self.close_connection = True

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A running server that stands for all hosts; the cache is a fresh folder; nobody sleeps."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is what is tested
    server.site = site = Site()
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.naps = []
    for variable in ("HF_TOKEN", "HF_ENDPOINT", "PANMODAL_DATASETS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PANMODAL_MIRROR", site.url)
    monkeypatch.setenv("PANMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "__kwdefaults__", {**download.__kwdefaults__, "sleep": site.naps.append})
    yield site
    server.shutdown()
    server.server_close()


def h5ad(tmp_path, adata):
    path = tmp_path / "made.h5ad"
    adata.write_h5ad(path)
    return path.read_bytes()


@pytest.fixture
def published(tmp_path):
    """Make the bytes of small files in the layout of the published ones."""

    def essential(kind="lfc", test_split=None, n=10, genes=6):
        rng = np.random.default_rng(0)
        lines = ["K-562", "Hep-G2"]
        ids = [f"ENSG{k:011d}" for k in range(n)]
        folds = test_split or [k % 5 for k in range(n)]
        obs = pd.DataFrame({
            "gene_id": ids * 2, "symbol": [f"S{k}" for k in range(n)] * 2, "cell_line": [c for c in lines for _ in ids],
            "is_control": "False", "test_split": list(folds) * 2 if len(folds) == n else list(folds),
        }, index=[f"{i}_{c}" for c in lines for i in ids])  # fmt: skip
        values = (
            rng.integers(-1, 2, (2 * n, genes)).astype(np.int8)
            if kind == "deg"
            else rng.standard_normal((2 * n, genes))
        )
        return h5ad(tmp_path, anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"G{g}" for g in range(genes)])))

    def sciplex(folds=None, n=10, genes=4):
        lines, drugs = ["A549", "K562", "MCF7"], [f"drug {k}" for k in range(n)]
        obs = pd.DataFrame({"drug": drugs * 3, "cell_line": [c for c in lines for _ in drugs], "dose": "10000.0"})
        for fold in range(5):
            column = ["test" if k % 5 == fold else "train" for k in range(n)] if folds is None else folds[fold]
            obs[f"fold_{fold}"] = column * 3
        obs.index = obs.index.astype(str)
        values = np.random.default_rng(1).standard_normal((3 * n, genes))
        return h5ad(tmp_path, anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"G{g}" for g in range(genes)])))

    def gene_embedding(dims, n=8):
        obs = pd.DataFrame(index=[f"ENSG{k:011d}" for k in range(n)])
        return h5ad(tmp_path, anndata.AnnData(np.random.default_rng(2).standard_normal((n, dims)), obs=obs))

    def drug_embeddings(n=5):
        adata = anndata.AnnData(obs=pd.DataFrame(index=[str(1000 + k) for k in range(n)]))
        adata.obsm["maccs"] = np.random.default_rng(3).integers(0, 2, (n, 167)).astype(np.float32)
        adata.obsm["ecfp:2"] = np.random.default_rng(4).integers(0, 2, (n, 2000)).astype(np.float32)
        adata.obsm["own"] = np.ones((n, 3), np.float32) * np.arange(n)[:, None]
        return h5ad(tmp_path, adata)

    return {
        "essential": essential,
        "sciplex": sciplex,
        "gene_embedding": gene_embedding,
        "drug_embeddings": drug_embeddings,
    }


@pytest.fixture
def hub():
    return HUB
