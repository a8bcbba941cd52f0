"""Drawing images from a model: the loop, what an attack sees, what it costs, what stands around it."""
