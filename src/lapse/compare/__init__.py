"""Trains the placements of dropout side by side on someone's sequences, and says which one wins."""
