"""Recorded small runs, and the fit of the scaling law to them: see scripts/fit_time_rule."""
