"""A public leaderboard as a folder of static pages, made from results folders and submissions."""
