import numpy as np
import pytest

from panmodal.screens.embedded import EMBEDDED_SCREENS, embedded_screen


@pytest.mark.parametrize("name", list(EMBEDDED_SCREENS))
def test_shipped_screens_are_what_they_say(name):
    entry, screen = EMBEDDED_SCREENS[name], embedded_screen(name)
    assert (screen.name, screen.response, screen.simulated) == (entry.name, entry.response, entry.simulated)
    assert entry.name == name
    assert entry.licence
    assert entry.source
    rows, readouts = (int(n) for n in entry.description.replace(" simulated", "").split() if n.isdigit() and int(n) > 2)
    assert (len(screen.pert_ids), len(screen.readouts)) == (rows, readouts)


def test_depmap_is_fitness_and_never_called_expression():
    screen = embedded_screen("depmap-fitness")
    assert screen.response == "fitness"
    assert "growth" in screen.description
    ids, values = screen.responses(screen.contexts[0])
    # Losing a common essential gene stops growth in every line.
    assert np.median(values[ids.index("POLR2B")]) < -1


def test_an_unknown_screen_lists_the_shipped(refuses):
    refuses(["no shipped screen 'x'", "depmap-fitness, simulated-perturbseq"], embedded_screen, "x")
