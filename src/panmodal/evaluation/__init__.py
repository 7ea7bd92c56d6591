"""Tasks, trials, the plan, the executor, the store and the metrics."""
