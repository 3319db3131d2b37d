"""NIR graphs, from and to files and the package nir."""
