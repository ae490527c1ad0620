"""Review of rows in a browser: searching, comparing and correcting them; an index of the file, a local server, one
page.

Numbers and offsets of all rows are in memory, the rows themselves stay in the file. Knows no model and no terminal.
"""
