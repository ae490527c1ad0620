"""Where results are kept: the file of rows, what it says is done, texts beside images."""
