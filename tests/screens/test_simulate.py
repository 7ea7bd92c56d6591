import numpy as np
import pytest

from panmodal.screens.simulate import DIMS, N_LATENT, simulate_responses

SMALL = {"n_perturbations": 120, "n_genes": 40}


def held_out_error(screen, ids, vectors):
    """Mean squared error of least squares from vectors, trained on the even ids and tested on the odd."""
    responses = dict(zip(*screen.responses(screen.contexts[0]), strict=True))
    truth = np.array([responses[i] for i in ids])
    train, test = np.arange(len(ids)) % 2 == 0, np.arange(len(ids)) % 2 == 1
    design = np.hstack([vectors, np.ones((len(ids), 1))]).astype(float)
    penalty = 10.0 * np.eye(design.shape[1])
    weights = np.linalg.solve(design[train].T @ design[train] + penalty, design[train].T @ truth[train])
    return float(((design[test] @ weights - truth[test]) ** 2).mean())


def test_shapes_names_and_mark():
    screen, planted = simulate_responses(**SMALL, contexts=("a", "b", "c"))
    assert (screen.simulated, screen.response, screen.contexts) == (True, "lfc", ["a", "b", "c"])
    assert (len(screen.pert_ids), len(screen.readouts)) == (120, 40)
    assert (screen.pert_ids[0], screen.pert_ids[-1]) == ("SIM001", "SIM120")
    assert list(planted) == ["sim-full", "sim-half", "sim-noisy", "sim-partial", "sim-unrelated"]
    for name, (ids, vectors) in planted.items():
        assert vectors.shape == (72 if name == "sim-partial" else 120, DIMS)
        assert set(ids) <= set(screen.pert_ids)
        assert len(ids) == len(set(ids)) == len(vectors)


def test_the_seed_decides_everything():
    (a, x), (b, y), (c, z) = (simulate_responses(**SMALL, seed=s) for s in (3, 3, 4))
    assert [a.digest(k) for k in a.contexts] == [b.digest(k) for k in b.contexts]
    assert a.digest(a.contexts[0]) != c.digest(c.contexts[0])
    assert all(np.array_equal(x[k][1], y[k][1]) for k in x)
    assert not np.array_equal(x["sim-full"][1], z["sim-full"][1])


def test_without_noise_the_responses_have_the_planted_rank():
    screen, planted = simulate_responses(**SMALL, noise=0.0)
    for context in screen.contexts:
        values = screen.responses(context)[1].astype(float)
        assert np.linalg.matrix_rank(values - values.mean(axis=0), tol=1e-3) == N_LATENT
    assert np.linalg.matrix_rank(planted["sim-full"][1]) == N_LATENT
    assert np.linalg.matrix_rank(planted["sim-half"][1]) == N_LATENT // 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_embeddings_rank_as_promised(seed):
    screen, planted = simulate_responses(n_perturbations=300, n_genes=60, seed=seed)
    error = {name: held_out_error(screen, *planted[name]) for name in planted if name != "sim-partial"}
    assert error["sim-full"] < error["sim-half"] < error["sim-unrelated"]
    assert error["sim-full"] < error["sim-noisy"] < error["sim-unrelated"]


@pytest.mark.parametrize("size", [{"n_perturbations": 14}, {"n_genes": 9}])
def test_too_small_a_screen_is_refused(size, refuses):
    refuses(["at least 15 perturbations and 10 genes"], simulate_responses, **size)
