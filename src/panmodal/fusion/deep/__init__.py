"""The parts of fusions that need torch; imported only when one is fitted."""
