"""What the binaries and a notebook call: configurations, workdir, restore, environment."""
