"""Where results are kept: the file of rows, which items are done, texts beside images."""
