"""Measurements and estimates for people; no package below this floor needs them."""
