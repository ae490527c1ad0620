"""Rows looked at, found, compared and corrected in a browser: an index over the file, a local server, one page.

Numbers and offsets of all rows are in memory, the rows themselves stay in the file. Knows no model and no terminal.
"""
