"""Pure functions of the score table: leaderboards, figures and pages."""
