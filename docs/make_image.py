"""Draw one task of a results folder as an image: python docs/make_image.py RESULTS SCREEN CONTEXT OUT.png."""

import sys

from panmodal import Store, leaderboard
from panmodal.insight.plots import fold_plot

results, screen, context, out = sys.argv[1:]
scores = Store(results).scores()
board = leaderboard(scores)
chosen = board[(board["screen"] == screen) & (board["context"] == context)]
fold_plot(scores, chosen).savefig(out, dpi=110, facecolor="white")
print(chosen[["embedding", "probe", "mean", "gap_closed"]].to_string(index=False))
