"""Operations and energy of a network."""
