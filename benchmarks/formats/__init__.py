"""Tables as people see them: markdown, LaTeX, HTML, CSV, a terminal, a figure; and where one cell comes from."""
