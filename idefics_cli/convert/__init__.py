"""Rows in the forms that other programs read: CSV, Parquet, a folder of images with their texts.

Rows are read twice, first for the columns and their types, so that memory does not grow with them. Knows no model and
no terminal.
"""
