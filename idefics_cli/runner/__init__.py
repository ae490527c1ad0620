"""Running: items prepared ahead of the model, requests in, results out. Knows no terminal and no file of rows."""
