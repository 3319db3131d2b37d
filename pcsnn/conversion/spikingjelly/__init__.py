"""Networks of SpikingJelly: their neurons, and their dimension of time."""
