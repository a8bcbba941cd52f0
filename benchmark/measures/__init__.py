"""Measures: images -> descriptors -> distances -> scores, and the exact search between them."""
