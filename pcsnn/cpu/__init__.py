"""CPU forms of operators that csrc/ leaves to torch and oneDNN."""
