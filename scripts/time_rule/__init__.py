"""Recorded small runs, and the law that is fitted to them: see scripts/fit_time_rule."""
