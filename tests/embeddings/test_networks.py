import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import block_diag, csr_array
from sklearn.manifold import spectral_embedding

from panmodal.embeddings.builders.networks import (
    BUILDERS,
    build_degree,
    build_netmf,
    build_node2vec,
    build_spectral,
    example_links,
    read_network,
)
from panmodal.embeddings.card import Card
from panmodal.embeddings.edges import read_edges
from panmodal.embeddings.factorise import symmetric_svd, truncated_svd
from panmodal.embeddings.network import adjacency, components, netmf, netmf_vectors, spectral_vectors
from panmodal.embeddings.network_kernels import core_numbers
from panmodal.embeddings.walks import degree_vectors, node2vec_vectors

LINKS = """protein1 protein2 combined_score
9606.ENSP01 9606.ENSP02 900
9606.ENSP02 9606.ENSP01 900
9606.ENSP02 9606.ENSP03 400
9606.ENSP03 9606.ENSP04 399
9606.ENSP05 9606.ENSP05 999
"""
INFO = """#string_protein_id\tpreferred_name\tprotein_size\tannotation
9606.ENSP01\tA1\t10\tcalled "alpha; one
9606.ENSP02\tB1\t10\tnone
9606.ENSP03\tC1\t10\tnone
9606.ENSP05\tE1\t10\tnone
"""


@pytest.fixture
def file(tmp_path):
    def write(content, name="edges.txt"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write


def random_graph(n=60, p=0.12, seed=0, weighted=True):
    rng = np.random.default_rng(seed)
    dense = np.triu(rng.random((n, n)) < p, 1) * (rng.uniform(0.2, 2, (n, n)) if weighted else 1.0)
    for k in range(n - 1):
        dense[k, k + 1] = dense[k, k + 1] or 1.0
    graph = csr_array(dense + dense.T)
    graph.sort_indices()
    return graph


def gram(vectors):
    return vectors @ vectors.T


def pairs(read):
    return list(zip(read.frame["a"].astype(str), read.frame["b"].astype(str), strict=True))


# Reading


def test_a_links_file_of_string_is_read_as_it_is(file):
    path = file(LINKS, "9606.protein.links.v12.0.txt.gz")
    read = read_edges(path, min_score=400, names=file(INFO, "info.txt"))
    assert pairs(read) == [("A1", "B1"), ("B1", "A1"), ("B1", "C1")]
    assert read.frame["score"].tolist() == [900, 900, 400]
    assert read.left_out == {"ENSP04": "no edge with combined_score >= 400", "E1": "its only edges are with itself"}
    assert any("1 of 5 ids have no name in info.txt and keep their own: 'ENSP04'" in note for note in read.notes)


def test_without_names_the_taxon_is_taken_off(file):
    read = read_edges(file(LINKS))
    assert pairs(read)[:2] == [("ENSP01", "ENSP02"), ("ENSP02", "ENSP01")]
    assert list(read.frame) == ["a", "b"]
    assert any("taxon '9606.'" in note for note in read.notes)


def test_ids_of_two_taxa_keep_them(file):
    assert pairs(read_edges(file("a b\n9606.X 10090.Y\n"))) == [("9606.X", "10090.Y")]


def test_aliases_are_gene_symbols(file):
    aliases = file("#string_protein_id\talias\tsource\n9606.ENSP01\tzzz\tUniProt_AC\n9606.ENSP01\tA1\tEnsembl_HGNC_symbol\n"
                   "9606.ENSP02\tB1\tBLAST BioMart_HUGO\n9606.ENSP01\tOLD\tBioMart_HUGO\n", "aliases.txt")  # fmt: skip
    assert pairs(read_edges(file(LINKS), names=aliases))[0] == ("A1", "B1")


def test_proteins_of_one_gene_become_one_node(file):
    info = file("id\tsymbol\n9606.ENSP01\tA\n9606.ENSP02\tA\n9606.ENSP03\tC\n9606.ENSP04\tD\n9606.ENSP05\tC\n", "n.tsv")
    read = read_edges(file(LINKS), names=info)
    assert pairs(read) == [("A", "C"), ("C", "D")]
    assert read.left_out == {}
    assert any("share a name are one node: 'A', 'C'" in note for note in read.notes)


@pytest.mark.parametrize("header", ["a,b", "Source,Target", "gene1,gene2", "entity1,entity2", "x,y", "from,to"])
def test_columns_are_detected(file, header):
    assert pairs(read_edges(file(f"{header},extra\n007,NA,z\nnan,1-Mar,z\n", "e.csv"))) == [
        ("007", "NA"),
        ("nan", "1-Mar"),
    ]


def test_columns_may_be_named_and_lie_anywhere(file):
    path = file("weight\tkind\tone\ttwo\n0.5\tx\tA\tB\n", "e.tsv")
    read = read_edges(path, a="one", b="two", score="weight")
    assert (pairs(read), read.frame["score"].tolist()) == ([("A", "B")], [0.5])


def test_biogrid_is_read_by_its_symbols(file, tmp_path):
    text = ("#BioGRID Interaction ID\tOfficial Symbol Interactor A\tOfficial Symbol Interactor B\tExperimental System Type\n"
            "103\tMAP2K4\tFLNC\tphysical\n117\tMYPN\tACTN2\tgenetic\n118\tMYPN\tFLNC\tphysical\n")  # fmt: skip
    with zipfile.ZipFile(tmp_path / "BIOGRID.tab3.zip", "w") as archive:
        archive.writestr("BIOGRID.tab3.txt", text)
    read = read_edges(tmp_path / "BIOGRID.tab3.zip", only=["Experimental System Type=physical"])
    assert pairs(read) == [("MAP2K4", "FLNC"), ("MYPN", "FLNC")]
    assert read.left_out == {"ACTN2": "no row with Experimental System Type=physical"}


@pytest.mark.parametrize("kind", [str, "category", "string"])
def test_parquet_gives_the_same(tmp_path, file, kind):
    frame = pd.DataFrame({"a": ["X", "Y"], "b": ["Y", "Z"], "score": [1, 2]})
    frame[["a", "b"]] = frame[["a", "b"]].astype(kind)
    frame.to_parquet(tmp_path / "e.parquet")
    text = file(frame.to_csv(index=False), "e.csv")
    for path in (tmp_path / "e.parquet", text):
        read = read_edges(path, min_score=2)
        assert (pairs(read), read.left_out) == ([("Y", "Z")], {"X": "no edge with score >= 2"})


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, ["first line is empty"]),
        ("a\nx\n", {}, ["names one column"]),
        ("a b\n", {}, ["no edges below its header"]),
        ("A\tB\t0.9\nC\tD\t0.8\n", {}, ["looks like an edge", "Put a header"]),
        ("a b b\nx y z\n", {}, ["'b' appear more than once"]),
        ("a b\nx y\nx y z\n", {}, ["row 2: 3 cells", "header names 2", "'x y z'"]),
        ("a b\nx y\n z\n", {}, ["column 'a' is empty in row(s) '2'"]),
        ("a,b\nx,y\nz,\n", {}, ["column 'b' is empty in row(s) '2'"]),
        ("a b score\nx y 1\nx z high\n", {"min_score": 1}, ["'score' holds text: row 2: 'high'"]),
        ("a b score\nx y 1\nx z nan\n", {"min_score": 1}, ["'score' has no finite number in row(s) '2'"]),
        ("a b score\nx y 1\nx z 2\n", {"min_score": 3}, ["'score' of 3 or more", "from 1 to 2", "Lower min_score"]),
        ("a b\nx y\n", {"min_score": 1}, ["no column of scores", "'a', 'b'"]),
        ("a b\nx y\n", {"score": "w"}, ["no column 'w'"]),
        ("a b\nx y\n", {"a": "c", "b": "b"}, ["no column(s) 'c'"]),
        ("a b\nx y\n", {"a": "a"}, ["name both columns"]),
        ("a b\nx y\n", {"score": "b"}, ["'b' cannot hold both"]),
        ("a b\nx y\n", {"only": ["c=1"]}, ["'c=1' must be COLUMN=VALUE"]),
        ("a b\nx x\n", {}, ["no edge between two different ids"]),
        ("a b c\nx y 1\n", {"only": ["c=2"]}, ["no edge between two different ids"]),
    ],
)  # fmt: skip
def test_a_bad_edge_list_is_refused(file, text, options, says, refuses):
    refuses(["edges.txt: ", *says], read_edges, file(text), **options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#string_protein_id\tpreferred_name\n10090.X\tA\n", ["names none of the ids ('9606.ENSP01'", "10090.X"]),
        ("id\tname\n9606.ENSP01\tA\n9606.ENSP01\tB\n", ["'9606.ENSP01' have more than one name"]),
        ("#string_protein_id\talias\tsource\n9606.ENSP01\tA\tUniProt_AC\n", ["no alias is from Ensembl_HGNC_symbol"]),
        ("id\tname\n9606.ENSP01\tA\n9606.ENSP02\tA\n9606.ENSP03\tA\n9606.ENSP04\tA\n9606.ENSP05\tA\n", ["between two ids of one name"]),
    ],
)  # fmt: skip
def test_bad_names_are_refused(file, text, says, refuses):
    refuses(says, read_edges, file(LINKS), names=file(text, "names.tsv"))


def test_damaged_and_missing_files_are_named(tmp_path, refuses):
    refuses(["nowhere.txt: no such file"], read_edges, tmp_path / "nowhere.txt")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(LINKS.encode() * 1000)[:-50])
    refuses(["e.txt.gz", "Is it complete?"], read_edges, tmp_path / "e.txt.gz")
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    refuses(["e.parquet: cannot be read as parquet"], read_edges, tmp_path / "e.parquet")
    pd.DataFrame({"a": [0.5], "b": ["x"]}).to_parquet(tmp_path / "f.parquet")
    refuses(["f.parquet: column 'a' holds double, not ids"], read_edges, tmp_path / "f.parquet")
    pd.DataFrame({"a": ["x"], "b": ["y"], "score": ["z"]}).to_parquet(tmp_path / "g.parquet")
    refuses(["g.parquet: column 'score' holds", "not scores"], read_edges, tmp_path / "g.parquet", min_score=1)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one", "a b")
        archive.writestr("two", "a b")
    refuses(["two.zip: holds 2 files"], read_edges, tmp_path / "two.zip")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=30))
def test_adjacency_is_the_largest_weight_of_each_pair(rows):
    edges = pd.DataFrame([(f"n{i}", f"n{j}", w) for i, j, w in rows], columns=["a", "b", "w"])
    expected = {}
    for a, b, w in edges.itertuples(index=False):
        if a != b:
            expected[a, b] = expected[b, a] = max(w, expected.get((a, b), 0))
    if not expected:
        return
    names, graph = adjacency(edges.astype({"a": "category", "b": "category"}), weight="w")
    found = graph.tocoo()
    assert {(names[i], names[j]): w for i, j, w in zip(found.row, found.col, found.data, strict=True)} == expected
    assert names == sorted({a for a, _ in expected})


# Factorisation


@pytest.mark.parametrize(("nodes", "dims", "block"), [(40, 6, 64), (200, 10, 16), (300, 30, 32)])
def test_products_alone_give_the_same_factors(nodes, dims, block):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((nodes, nodes)))[0]
    values = np.sort(rng.uniform(1, 2, nodes) * 0.93 ** np.arange(nodes))[::-1] * rng.choice([-1, 1], nodes)
    matrix = ((basis * values) @ basis.T).astype(np.float32)
    found, residual = symmetric_svd(lambda x: matrix @ x, nodes, dims, block=block)
    assert residual <= 1e-4
    np.testing.assert_allclose(gram(found), gram(truncated_svd(matrix, dims)), atol=2e-3)


def test_a_matrix_of_low_rank_is_no_trouble():
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((150, 3)))[0]
    matrix = ((vectors * [9, 4, 1]) @ vectors.T).astype(np.float32)
    found, _ = symmetric_svd(lambda x: matrix @ x, 150, 5, block=8)
    np.testing.assert_allclose(gram(found), matrix, atol=1e-4)


def test_an_unfinished_factorisation_says_so():
    matrix = np.diag(np.linspace(1, 1.01, 400)).astype(np.float32)
    assert symmetric_svd(lambda x: matrix @ x, 400, 20, block=32, rounds=2)[1] > 1e-4


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_netmf_in_blocks_is_netmf_as_a_whole(window):
    graph = random_graph(700, 0.01)
    whole, _ = netmf_vectors(graph, 16, window=window, negative=2.0, method="sparse")
    blocks, notes = netmf_vectors(graph, 16, window=window, negative=2.0, method="blocks")
    np.testing.assert_allclose((blocks**2).sum(axis=0), (whole**2).sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(gram(blocks), gram(whole), atol=2e-3 * np.abs(gram(whole)).max())
    assert notes == ("NetMF matrix in blocks, in single precision",)


def test_memory_changes_nothing():
    graph = random_graph(1100, 0.01)
    seen = []
    plenty, _ = netmf_vectors(graph, 8, method="blocks", progress=lambda done, of: seen.append((done, of)))
    none, _ = netmf_vectors(graph, 8, method="blocks", memory=0.0)
    some, _ = netmf_vectors(graph, 8, method="blocks", memory=0.75 + 600 * 1100 * 4 / 2**30)
    np.testing.assert_array_equal(plenty, none)
    np.testing.assert_array_equal(plenty, some)
    assert seen == [(512, 1100), (1024, 1100), (1100, 1100)]


def test_netmf_of_edges_is_that_of_their_graph():
    edges = pd.DataFrame({"a": list("ABCDE"), "b": list("BCDEA"), "w": [1, 2, 3, 4, 5]})
    names, graph = adjacency(edges, weight="w")
    built = netmf(edges, Card(name="e"), dims=2, weight="w")
    assert built.ids == tuple(names)
    np.testing.assert_array_equal(built.vectors, netmf_vectors(graph, 2)[0])


# Spectral


def test_eigenmaps_are_those_of_scikit_learn():
    graph = random_graph(weighted=True)
    expected = spectral_embedding(graph, n_components=5, drop_first=True, random_state=0, eigen_solver="arpack")
    found = spectral_vectors(graph, 5, regularise=0.0)
    expected = expected * np.linalg.norm(found, axis=0) / np.linalg.norm(expected, axis=0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    degree = graph.sum(axis=1)
    np.testing.assert_allclose(found.T @ (degree[:, None] * found), degree.sum() * np.eye(5), atol=1e-8)


@pytest.mark.parametrize("kind", ["normalised", "adjacency"])
def test_spectral_factors_are_numpys(kind):
    graph = random_graph()
    root = 1 / np.sqrt(graph.sum(axis=1))
    dense = graph.toarray() * (np.outer(root, root) if kind == "normalised" else 1)
    np.testing.assert_allclose(
        gram(spectral_vectors(graph, 6, kind=kind, regularise=0.0)), gram(truncated_svd(dense, 6)), atol=1e-8
    )


@pytest.mark.parametrize("regularise", [0.0, 1.0])
def test_large_networks_give_the_same_by_iteration(regularise):
    graph = random_graph(620, 0.02)
    degree = graph.sum(axis=1) + regularise * graph.sum() / 620
    vectors = np.linalg.eigh(graph.toarray() / np.sqrt(np.outer(degree, degree)))[1]
    expected = vectors[:, ::-1][:, 1:5] * np.sqrt(degree.sum() / degree)[:, None]
    found = spectral_vectors(graph, 4, regularise=regularise)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-7)


def test_components_are_embedded_apart():
    big, small = random_graph(30, seed=1), random_graph(8, seed=2)
    graph = csr_array(block_diag([small, big]))
    labels, sizes = components(graph)
    assert (list(sizes), list(labels[[0, 37]])) == ([30, 8], [1, 0])
    found = spectral_vectors(graph, 10, regularise=0.0)
    assert (((found[:8] != 0).any(axis=0)) != ((found[8:] != 0).any(axis=0))).all()
    alone = spectral_vectors(big, 3, regularise=0.0) * np.sqrt(graph.sum() / big.sum())
    mine = found[8:, (found[8:] != 0).any(axis=0)][:, :3]
    np.testing.assert_allclose(np.abs(mine), np.abs(alone), atol=1e-8)


# Walks


def test_walks_follow_edges_with_the_right_bias():
    from concurrent.futures import ThreadPoolExecutor

    from panmodal.embeddings.walks import random_walks

    # 0-1, 0-2, 1-2, 2-3: from 2, reached from 0: back to 0 (1/p), to 1 (1, a neighbour of 0) or on to 3 (1/q), by weight.
    dense = np.zeros((4, 4))
    for i, j, w in [(0, 1, 1), (0, 2, 1), (1, 2, 2), (2, 3, 3)]:
        dense[i, j] = dense[j, i] = w
    with ThreadPoolExecutor(2) as pool:
        walks = random_walks(csr_array(dense), p=0.5, q=4.0, walks=20000, length=3, seed=0, pool=pool)
        again = random_walks(csr_array(dense), p=0.5, q=4.0, walks=20000, length=3, seed=0, pool=pool)
    np.testing.assert_array_equal(walks, again)
    assert (dense[walks[:, :-1], walks[:, 1:]] > 0).all()
    first = walks[walks[:, 0] == 2, 1]
    np.testing.assert_allclose(np.bincount(first, minlength=4) / len(first), np.array([1, 2, 0, 3]) / 6, atol=0.015)
    third = walks[(walks[:, 0] == 0) & (walks[:, 1] == 2), 2]
    expected = np.array([1 / 0.5, 2, 0, 3 / 4])
    np.testing.assert_allclose(np.bincount(third, minlength=4) / len(third), expected / expected.sum(), atol=0.02)


def test_node2vec_factorises_the_pmi_of_its_walks():
    from concurrent.futures import ThreadPoolExecutor

    from panmodal.embeddings.walks import random_walks

    graph = random_graph(40)
    with ThreadPoolExecutor(1) as pool:
        walks = random_walks(graph, p=2.0, q=0.5, walks=4, length=12, seed=3, pool=pool)
    counts = np.zeros((40, 40))
    for walk in walks:
        for s in range(12):
            for t in range(max(0, s - 3), min(12, s + 4)):
                counts[walk[s], walk[t]] += s != t
    with np.errstate(divide="ignore"):
        pmi = np.log(counts * counts.sum() / np.outer(counts.sum(axis=0), counts.sum(axis=0))) - np.log(2)
    found, _ = node2vec_vectors(graph, 6, p=2.0, q=0.5, walks=4, length=12, window=3, negative=2.0, seed=3)
    np.testing.assert_allclose(gram(found), gram(truncated_svd(np.maximum(pmi, 0), 6)), atol=2e-3)


def test_node2vec_finds_planted_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    dense = np.triu(rng.random((90, 90)) < np.where(group[:, None] == group, 0.3, 0.02), 1)
    dense[np.arange(89), np.arange(1, 90)] = True
    found, _ = node2vec_vectors(csr_array((dense + dense.T).astype(float)), 8, q=0.5)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    near = np.argsort(-gram(unit), axis=1)[:, 1:6]
    assert (group[near] == group[:, None]).mean() > 0.85


@pytest.mark.parametrize("bad", [{"p": 0}, {"q": -1}, {"walks": 0}, {"length": 1}, {"window": 0}, {"negative": 0}])
def test_bad_walks_are_refused(bad, refuses):
    refuses([f"node2vec: {next(iter(bad))} must be above 0"], node2vec_vectors, random_graph(20), 4, **bad)
    refuses(["no pair of nodes is met more often"], node2vec_vectors, random_graph(20), 4, negative=1e6)


# Degree


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.02, 0.6))
def test_core_numbers_are_those_of_networkx(seed, nodes, share):
    networkx = pytest.importorskip("networkx")
    graph = random_graph(nodes, share, seed, weighted=False)
    expected = networkx.core_number(networkx.from_scipy_sparse_array(graph))
    assert core_numbers(graph.indptr, graph.indices).tolist() == [expected[k] for k in range(nodes)]


def test_degree_vectors_are_logarithms_of_counts(refuses):
    graph = random_graph(20)
    expected = np.log1p(np.column_stack([(graph.toarray() > 0).sum(axis=1), graph.toarray().sum(axis=1)]))
    np.testing.assert_allclose(degree_vectors(graph, ["degree", "strength"]), expected)
    refuses(["no feature 'rank'; there are degree"], degree_vectors, graph, ["rank"])
    refuses(["degree: no feature"], degree_vectors, graph, [])


# Builders


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.name)
def test_a_builder_reads_names_and_repeats(tmp_path, builder):
    options = builder.example(tmp_path)
    built = builder.function(**options)
    np.testing.assert_array_equal(built.vectors, builder.function(**options).vectors)
    assert list(built.ids) == [f"G{k:02d}" for k in range(36)]
    assert built.left_out == {"G36": "no edge with combined_score >= 400"}
    assert built.vectors.dtype == np.float32
    assert all(option.help for option in builder.options.values())
    assert "36 nodes, 182 edges" in built.notes


@pytest.mark.parametrize("build", [build_netmf, build_spectral, build_node2vec, build_degree])
def test_weights_matter(tmp_path, build):
    options = example_links(tmp_path) | ({} if build is build_degree else {"dims": 4})
    plain, weighted = build(**options), build(**options, weighted=True)
    if build is build_degree:
        assert (plain.vectors.shape[1], weighted.vectors.shape[1]) == (2, 3)
        assert any("strength is the degree" in note for note in plain.notes)
    else:
        assert not np.allclose(plain.vectors, weighted.vectors)


def test_the_order_of_rows_does_not_matter(tmp_path):
    options = example_links(tmp_path) | {"dims": 6}
    first = build_netmf(**options)
    head, *rows = options["edges"].read_text().splitlines()
    options["edges"].write_text("\n".join([head, *rows[::-1]]) + "\n")
    np.testing.assert_array_equal(build_netmf(**options).vectors, first.vectors)


def test_ensembl_proteins_are_named_as_such(tmp_path):
    assert build_degree(edges=example_links(tmp_path)["edges"]).card == {"id_namespace": "ensembl_protein"}


def islands(path, sizes=(30, 3, 2)):
    """Rings of these sizes, the first with chords."""
    rows, at = [], 0
    for size in sizes:
        step = [(at + k, at + (k + 1) % size) for k in range(size)]
        rows += step + ([(at + k, at + (k * 7 + 3) % size) for k in range(size)] if size > 10 else [])
        at += size
    pd.DataFrame([(f"n{i:02d}", f"n{j:02d}") for i, j in rows], columns=["a", "b"]).to_csv(path, index=False)
    return path


def test_nodes_outside_the_largest_component_are_named(tmp_path):
    path = islands(tmp_path / "e.csv")
    built = build_spectral(edges=path, dims=5)
    assert len(built.ids) == 30
    assert built.left_out["n30"] == "its component has 3 nodes, the largest 30"
    assert "largest of 3 components: 30 of 35 nodes" in built.notes
    every = build_spectral(edges=path, dims=30, component="all")
    assert set(every.ids) | set(every.left_out) == {f"n{k:02d}" for k in range(35)}


@pytest.mark.parametrize("method", ["sparse", "blocks"])
def test_components_without_a_part_are_left_out(tmp_path, method):
    path = islands(tmp_path / "e.csv", (40, 3, 2, 2))
    built = build_netmf(edges=path, dims=2, method=method)
    assert (np.abs(built.vectors).max(axis=1) > 0).all()
    assert built.left_out
    assert all("has no part in the 2 dimensions" in why for why in built.left_out.values())
    assert set(built.ids) | set(built.left_out) == {f"n{k:02d}" for k in range(47)}


def test_options_that_cannot_be_met_are_refused(tmp_path, file, refuses):
    path = islands(tmp_path / "e.csv")
    refuses(["shape (35, 35) has no 35 dimensions"], build_netmf, edges=path, dims=35)
    refuses(["has no 0 dimensions"], build_netmf, edges=path, dims=0)
    refuses(["window 0 must be at least 1"], build_netmf, edges=path, dims=4, window=0)
    refuses(["negative 0 above 0"], build_netmf, edges=path, dims=4, negative=0)
    refuses(["regularise -1 must not be negative"], build_spectral, edges=path, dims=4, regularise=-1.0)
    refuses(["35 nodes in 3 components has no 33"], build_spectral, edges=path, dims=33, component="all")
    zero = file("a b score\nx y 0\ny z 1\n")
    refuses(["weights must be above 0", "Set min_score"], read_network, zero, weighted=True)


def test_netmf_of_string_leaves_out_what_has_no_part_in_its_dimensions(shared):
    from panmodal import Embedding

    built = build_netmf(edges=shared / "knowledge" / "string_high_confidence_pairs.csv.gz")
    assert len(built.ids) + len(built.left_out) == 10335
    golden = Embedding.read(shared / "embeddings" / "network_string_netmf128.h5ad", name="golden")
    # The golden file holds no more than dust for genes of components without a part in the dimensions.
    assert set(golden.ids) - set(built.ids) <= set(built.left_out)
