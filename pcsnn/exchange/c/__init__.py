"""Integer networks as C."""
