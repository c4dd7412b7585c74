"""Data sets as published: how each is read, verified and downloaded."""
