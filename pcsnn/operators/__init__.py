"""The operators: schemas, dispatch, public functions with their checks, a file for each family."""
