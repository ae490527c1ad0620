"""Rows of tables and members of shards on their way in: Parquet, CSV, webdataset tars, Lance, datasets of the hub.

Each is read as a stream; what is damaged is a record with a problem. Knows no model, no template and no terminal.
"""
