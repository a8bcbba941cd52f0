"""A pair: its file, its model and images, from the Hub or a folder."""
