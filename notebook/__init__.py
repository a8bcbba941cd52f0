"""What the command does, as functions for a notebook: `sidebench.run("digits")` and its siblings."""
