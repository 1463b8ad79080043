"""One module a chapter, one function a figure: a tidy table in, a chart out. Nothing here reads files or computes."""
