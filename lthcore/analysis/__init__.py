"""Analyses of finished runs, as tables: what tickets look like, whether they agree, and why they win."""
