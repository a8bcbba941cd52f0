"""The embedded pairs' weights (one diffusers folder each) and `train`, which made them."""
