"""From raw cells: reading counts, responses (LFC, DEG), ceilings of the experiment's own noise, simulated counts."""
