"""Analysis: what tickets look like, whether they agree, and why they win, as tables derived from finished runs."""
