"""Trains placements of dropout side by side on the user's sequences and says which is best."""
