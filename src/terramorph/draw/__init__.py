"""A page on which a map is drawn and the photograph of that place appears, computed by the visitor's own browser."""
