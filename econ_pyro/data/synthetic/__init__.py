"""Scenes that are drawn: shapes, sprites, Spriteworld."""
