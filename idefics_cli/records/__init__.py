"""Reading rows of tables and samples of shards: Parquet, CSV, webdataset tars, Lance, datasets of the hub.

Each is read as a stream; what is damaged is a record with a problem. Knows no model, no template and no terminal.
"""
