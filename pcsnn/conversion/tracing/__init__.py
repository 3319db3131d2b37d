"""A model as a torch.fx graph."""
