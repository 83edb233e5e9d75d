"""Exposure bias: how much worse a student gets by going on from what it wrote itself."""
