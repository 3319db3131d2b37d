"""What every room asks of a tensor: checks of arguments, shapes, what is computed once for it."""
