"""Sources: the data sets as they are published, and how each is read, verified and fetched."""
