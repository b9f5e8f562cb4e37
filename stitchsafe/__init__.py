"""stitchsafe: networks run over volumes larger than memory, equal to one pass over the whole."""
