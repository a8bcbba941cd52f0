"""The embedded pairs' weights (one diffusers folder each) and `recipe`, which makes them."""
