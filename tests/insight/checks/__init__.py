"""Tests of the checks of results."""
