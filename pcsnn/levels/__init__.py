"""Level tables (10), (C3), (S1)-(S4), and how their levels are spaced (23)."""
