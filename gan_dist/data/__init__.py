"""Bring images into training: pack, index, order, decode and load them."""
