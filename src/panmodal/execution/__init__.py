"""Executors: a function over many tasks, in this process, in several, or on a cluster; faults are answers, not crashes."""
