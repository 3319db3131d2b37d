"""torch.fx graphs without spikes: kinds of operations, names, activations and the forms they are written in."""
