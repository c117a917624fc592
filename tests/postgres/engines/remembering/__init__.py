"""An ENGINE that remembers."""
