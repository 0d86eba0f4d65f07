"""The benchmark: checks that layers compute the right numbers, then times them."""
