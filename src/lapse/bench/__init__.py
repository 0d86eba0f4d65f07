"""The benchmark: correctness first, then the table of speeds, beside what people have today."""
