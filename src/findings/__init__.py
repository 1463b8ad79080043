"""One module a chapter: from tables to what its figures draw and its prose says, each claim guarded by the data."""
