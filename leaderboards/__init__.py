"""Results of record and the tables made from them."""
